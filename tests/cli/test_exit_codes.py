"""One class per exit code: in the package, in its own list, and in the README's."""

from __future__ import annotations

import ast
import re
from itertools import chain

from postmortem import errors
from postmortem.errors import PostmortemError, UnreadableInput, UsageError, error_class
from tests.cli.conftest import ROOT

FAMILY = {kind.exit_code: kind for kind in PostmortemError.__subclasses__() if kind.__module__ == errors.__name__}
MODULES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "postmortem").rglob("*.py")}
NODES = [(file.name, node) for file, tree in MODULES.items() for node in ast.walk(tree)]
CLASSES = [(name, node) for name, node in NODES if isinstance(node, ast.ClassDef)]


def bases(node: ast.ClassDef) -> set[str]:
    return {ast.unparse(base).rpartition(".")[2] for base in node.bases}


def assigned(node: ast.AST) -> list[str]:
    """Names and attributes that a statement sets."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [ast.unparse(target).rpartition(".")[2] for target in targets]


def test_the_readme_lists_every_code() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("| exit code | meaning |")[2].partition("\n## ")[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == [0, *sorted(FAMILY)]


def test_the_module_lists_every_class() -> None:
    listed = re.findall(r"^    (\d+) +(\w+) ", errors.__doc__ or "", re.MULTILINE)
    assert {(int(code), name) for code, name in listed} == {(code, kind.__name__) for code, kind in FAMILY.items()}
    assert len(FAMILY) == sum("PostmortemError" in bases(node) for _, node in CLASSES), "two classes with one code"


def test_other_rooms_derive_their_errors_from_the_classes() -> None:
    family, size = {kind.__name__ for kind in FAMILY.values()}, 0
    while size != len(family):
        size = len(family)
        family |= {node.name for _, node in CLASSES if bases(node) & family}
    for name, node in CLASSES:
        if name != "errors.py":
            assert "PostmortemError" not in bases(node), node.name
            if node.name in family:
                assert "exit_code" not in chain.from_iterable(map(assigned, node.body)), node.name


def test_no_instance_gets_another_code() -> None:
    for name, node in NODES:
        if isinstance(node, ast.Assign) and name != "errors.py":
            assert not any(ast.unparse(target).endswith(".exit_code") for target in node.targets), name


def test_what_another_process_ended_with_is_raised_again() -> None:
    assert error_class(2) is UsageError
    again = error_class(3)("the shard is not there")
    assert isinstance(again, UnreadableInput) and str(again) == "the shard is not there" and again.file is None
