"""Names in the package: each says what it holds, stands once, and stays in its room if it is private."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "postmortem"

VAGUE = {"found", "one", "said", "told"}
"""Names that hide what they hold."""

PNG_CALLS = ("savefig", "print_png", '"PNG"', "'PNG'")
"""What a file that writes a picture contains, whichever library it uses."""

OTHER_JSON = {
    "checkpoint/manifest.py": "computes a checksum over the text of its keys, in the form that it always had",
    "checkpoint/writing.py": "streams that state, which may be large",
    "diff/wording.py": "shows one value in a sentence",
    "experiment/fork_server.py": "sends lines to the process that started it",
    "experiment/pool.py": "reads those lines",
    "interventions/set.py": "shows one value in a sentence",
    "lab/run_equality.py": "reads the lines of a journal",
    "lab/session.py": "writes the vocabulary, one list",
    "small_file.py": "parses the text of files, for jsonio.py and for rows",
    "resume_test/leg.py": "writes lines of its own process, and a config in which a NaN stays a number",
    "resume_test/run_resume_test.py": "reads those lines",
    "run/values.py": "keeps an object that stands in a cell as text",
}
"""Files that read or write JSON which is no record, with the reason. Records go through jsonio.py."""


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def _files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _stored_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, name) of every variable, argument, attribute, function, class and alias that gets a value."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield node.lineno, name
            case ast.ClassDef(name=name) | ast.ExceptHandler(name=str(name)) | ast.alias(asname=str(name)):
                yield node.lineno, name
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                yield node.lineno, name
            case _:
                pass


def _imported_modules(tree: ast.Module) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(line, dotted path below the package) of every import from the package, the imported name included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "postmortem":
            for alias in node.names:
                yield node.lineno, (*node.module.split(".")[1:], alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("postmortem."):
                    yield node.lineno, tuple(alias.name.split(".")[1:])


def test_every_name_says_what_it_holds() -> None:
    vague = [
        f"{file.relative_to(ROOT)}:{line} {name}"
        for file in _files()
        for line, name in _stored_names(_tree(file))
        if name.strip("_") in VAGUE
    ]
    assert vague == []


def test_a_public_class_has_a_name_of_its_own() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for file in _files():
        for node in ast.walk(_tree(file)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert {name: lines for name, lines in places.items() if len(lines) > 1} == {}


def test_one_file_writes_pictures() -> None:
    writers = [file for file in _files() if any(call in file.read_text() for call in PNG_CALLS)]
    assert [str(file.relative_to(ROOT)) for file in writers] == ["postmortem/report/canvas.py"]


def test_records_are_read_and_written_in_one_file() -> None:
    calls = {"json.dump(", "json.dumps(", "json.load(", "json.loads("}
    files = {str(f.relative_to(PACKAGE)) for f in _files() if any(call in f.read_text() for call in calls)}
    assert files - {"jsonio.py"} == OTHER_JSON.keys()


def test_one_file_has_the_factor_of_the_robust_sigma() -> None:
    files = [*_files(), *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    assert [str(f.relative_to(ROOT)) for f in files if "1.4826" in f.read_text()] == ["postmortem/stats.py"]


def test_no_room_imports_a_private_module_of_another_room() -> None:
    """A room is a file or folder directly in the package; the package's own `__init__` is part of none."""
    private: list[str] = []
    for file in _files():
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for line, path in _imported_modules(_tree(file)):
            if path[0] != room and any(part.startswith("_") and not part.startswith("__") for part in path):
                private.append(f"{file.relative_to(ROOT)}:{line} {'.'.join(path)}")
    assert private == []
