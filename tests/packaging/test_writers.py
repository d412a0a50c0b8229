"""One file writes: whatever else in the package changes the disk by itself is listed here, with the reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "postmortem"

WRITERS = {
    "atomic.py": "the door",
    "checkpoint/retention.py": "removes checkpoints of the run that the user's loop records, and moves `latest`",
    "checkpoint/writing.py": "streams a checkpoint of that run, all ranks together",
    "cli/_faults.py": "opens the null device in place of a stream that is gone",
    "exclusive.py": "makes the empty file whose lock gives the turn",
    "experiment/fork_server.py": "writes to a pipe, and opens the file that takes a child's messages",
    "experiment/pool.py": "has temporary files of its own in the system's folder for them",
    "frameworks/huggingface/replay.py": "moves what the framework saved, in the folder of a replay",
    "frameworks/lightning/replay.py": "moves what the framework saved, in the folder of a replay",
    "interrupt.py": "says on the standard error that it was interrupted, before anything is imported",
    "record/lock.py": "locks the run that the user's loop records",
    "run/directory.py": "makes the folders of a run directory in the stage of the door",
    "sources/_copies.py": "unpacks a log into a temporary file of its own in the system's folder for them",
    "record/segment.py": "makes the directory of that run",
    "record/writer.py": "appends to the files of that run",
    "resume_test/run_resume_test.py": "has a temporary folder of its own in the system's folder for them",
    "run/parts.py": "writes the parts of that run, several ranks at once",
    "sources/_sqlite.py": "copies a database into a temporary folder of its own, where SQLite writes beside it",
}

METHODS = {
    *("write_text", "write_bytes", "mkdir", "rename", "unlink", "rmdir", "touch"),
    *("symlink_to", "hardlink_to", "chmod", "lchmod", "truncate"),
}
FUNCTIONS = {
    "os": {
        *(
            "write",
            "pwrite",
            "writev",
            "replace",
            "rename",
            "renames",
            "mkdir",
            "makedirs",
            "unlink",
            "remove",
            "rmdir",
        ),
        *("removedirs", "link", "symlink", "truncate", "ftruncate", "chmod", "fchmod", "mkfifo", "mknod"),
    },
    "shutil": {"rmtree", "move", "copy", "copy2", "copyfile", "copyfileobj", "copytree", "make_archive"},
    "tempfile": {"mkstemp", "mkdtemp", "TemporaryDirectory", "NamedTemporaryFile", "TemporaryFile"},
}
FLAGS = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND", "O_TRUNC"}


def _opens_for_writing(call: ast.Call, position: int) -> bool:
    """Whether the mode of an `open` may write: it is the argument at `position`, or named."""
    given = [argument for index, argument in enumerate(call.args) if index == position]
    given += [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    return any(not isinstance(mode, ast.Constant) or set(str(mode.value)) & set("wax+") for mode in given)


def changes_of_the_disk(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what is called) of each call that writes, as far as names can say it."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        match call.func:
            case ast.Name(id="open") if _opens_for_writing(call, 1):
                yield call.lineno, "open"
            case ast.Attribute(value=ast.Name(id="os"), attr="open") if FLAGS & {
                node.attr for argument in call.args for node in ast.walk(argument) if isinstance(node, ast.Attribute)
            }:
                yield call.lineno, "os.open"
            case ast.Attribute(value=ast.Name(id="os"), attr="fdopen") if _opens_for_writing(call, 1):
                yield call.lineno, "os.fdopen"
            case ast.Attribute(value=ast.Name(id=module), attr=name) if name in FUNCTIONS.get(module, ()):
                yield call.lineno, f"{module}.{name}"
            case ast.Attribute(value=ast.Name(id="os" | "shutil" | "tempfile")):
                pass
            case ast.Attribute(attr="open") if _opens_for_writing(call, 0):
                yield call.lineno, ".open"
            case ast.Attribute(attr="replace") if len(call.args) == 1 and not call.keywords:
                yield call.lineno, ".replace of a path"
            case ast.Attribute(attr=name) if name in METHODS:
                yield call.lineno, f".{name}"
            case _:
                pass


def test_one_file_writes() -> None:
    files = {str(file.relative_to(PACKAGE)): ast.parse(file.read_text("utf-8")) for file in PACKAGE.rglob("*.py")}
    calls = {name: list(changes_of_the_disk(tree)) for name, tree in files.items()}
    alone = [f"postmortem/{n}:{line} {call}" for n, found in calls.items() if n not in WRITERS for line, call in found]
    assert alone == [], "use postmortem.atomic"
    assert [name for name in WRITERS if not calls.get(name)] == [], "no writer any more: take it out of WRITERS"


def test_each_way_to_write_is_seen() -> None:
    ways = (
        "open(p, 'w')",
        "open(p, mode='ab')",
        "p.open('x')",
        "p.open(mode)",
        "os.open(p, os.O_WRONLY | os.O_CREAT)",
        "os.fdopen(h, 'wb')",
        "os.replace(a, b)",
        "a.replace(b)",
        "p.write_text(t)",
        "p.parent.mkdir(exist_ok=True)",
        "shutil.rmtree(p)",
        "tempfile.mkdtemp()",
    )
    assert [way for way in ways if not list(changes_of_the_disk(ast.parse(way)))] == []
    reads = ("open(p)", "p.open('rb')", "os.open(p, os.O_RDONLY)", "text.replace('a', 'b')", "os.fdopen(h, 'rb')")
    assert [read for read in reads if list(changes_of_the_disk(ast.parse(read)))] == []
