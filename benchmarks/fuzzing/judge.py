"""Runs one input, and says what came of it: an outcome that is allowed, or a finding."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from postmortem import errors
from postmortem.errors import PostmortemError

from .commands import INSTALLED, SENTINEL, CommandInput, make_input
from .corpus import CANARY, ROOT, Tree, corpus, write_tree
from .mutate import mutated
from .readers import READERS, Reader, seeds_of

PACKAGE = str(ROOT / "postmortem")
CODES = frozenset({0, 1, 2, 3, 4, 5})
SILENT = frozenset({0, 1, 5})  # exit codes that may come without a message
_HARMLESS = frozenset({"\n", "\t", "\u200c", "\u200d"})


@dataclass(frozen=True)
class Verdict:
    """name: of the reader or the command. outcome: "read", "refused" or "exit N". problem: "" or what must not be, with
    `detail` and the innermost `frame` of the package; two findings are one if problem, detail and frame are equal."""

    name: str
    outcome: str
    problem: str = ""
    detail: str = ""
    frame: str = ""


@dataclass(frozen=True)
class Before:
    """What is in a sandbox before its command runs: the `names` of all, and the contents of the files that it must
    keep, recorded rows, checkpoints and everything in the sentinel."""

    names: frozenset[str]
    kept: Mapping[str, bytes]


@cache
def _spare() -> list[bytes]:
    return [content for tree in corpus().values() for content in tree.values() if isinstance(content, bytes)]


def reader_input(seed: int, index: int) -> tuple[Reader, Tree]:
    """Input number `index` of the readers."""
    rng = Random(f"{seed} reader {index}")
    reader = rng.choices(READERS, [reader.weight for reader in READERS])[0]
    tree = rng.choice(seeds_of(reader))
    return reader, mutated(rng, tree, reader.targets, _spare())


def command_input(seed: int, index: int) -> CommandInput:
    """Input number `index` of the commands."""
    return make_input(Random(f"{seed} command {index}"))


def run_reader(seed: int, index: int, scratch: Path) -> Verdict:
    """Feed one input to its reader."""
    reader, tree = reader_input(seed, index)
    folder = scratch / f"reader-{index}"
    write_tree(tree, folder)
    os.chdir(scratch)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            verdict = read(reader, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not verdict.problem and (scratch / CANARY).exists():
        verdict = Verdict(reader.name, verdict.outcome, "ran code")
    loud = next((w for w in caught if w.filename.startswith(PACKAGE) and issubclass(w.category, RuntimeWarning)), None)
    if not verdict.problem and loud is not None:
        frame = f"{Path(loud.filename).relative_to(ROOT)}:{loud.lineno}"
        verdict = Verdict(reader.name, verdict.outcome, "warning", str(loud.message)[:80], frame)
    return verdict


def read(reader: Reader, folder: Path) -> Verdict:
    """Call a reader with the folder of its files, whatever comes."""
    try:
        reader.read(folder)
    except PostmortemError as error:
        message = str(error)
        if error.exit_code not in CODES:
            return _raised(reader.name, error)
        raw = "several lines" if "\n" in message else _raw_control(message)
        return Verdict(reader.name, "refused", f"message: {raw}" if raw else "", frame=_frame(error) if raw else "")
    except reader.allowed:
        return Verdict(reader.name, "refused")
    except BaseException as error:  # noqa: BLE001 - whatever comes, it must be counted
        return _raised(reader.name, error)
    return Verdict(reader.name, "read")


def _raised(name: str, error: BaseException) -> Verdict:
    if os.environ.get("POSTMORTEM_DEBUG") == "1":
        traceback.print_exception(error)
    return Verdict(name, "raised", "exception", type(error).__name__, _frame(error))


def _frame(error: BaseException) -> str:
    """The innermost place of the package in a traceback: file and function."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(PACKAGE)]
    return f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].name}" if frames else ""


def prepare(given: CommandInput, sandbox: Path) -> Before:
    """Write the files of a command, and note what is there now."""
    shutil.rmtree(sandbox, ignore_errors=True)
    write_tree(given.tree, sandbox)
    if not (sandbox / "box").is_dir():
        (sandbox / "box").unlink(missing_ok=True)
        (sandbox / "box").mkdir()
    kept = (f"{SENTINEL}/", *(f"box/run/{name}" for name in ("metrics/", "batches/", "rollback/", "run.", "journal.")))
    names = _names(sandbox)
    files = {name: given.tree.get(name) for name in names if name.startswith(kept) and _is_file(sandbox / name)}
    return Before(names, {name: content for name, content in files.items() if isinstance(content, bytes)})


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a link to a name that no file can have
        return False


def _names(sandbox: Path) -> frozenset[str]:
    """Every path below, relative; what is behind a link is left out."""
    return frozenset(
        (Path(folder) / name).relative_to(sandbox).as_posix()
        for folder, folders, files in os.walk(sandbox)
        for name in (*folders, *files)
    )


def run_command(given: CommandInput, sandbox: Path) -> dict[str, Any]:
    """Run one prepared command as its console script does, in this process, which is then good for nothing else."""
    os.chdir(sandbox / "box")
    _redirect(sandbox, given.output)
    sys.argv = ["runs-diff" if given.name == INSTALLED else "postmortem", *given.words]
    defects: list[BaseException] = []
    _note_defects(defects)
    code = _exit_code(given)
    return {"code": code, "defects": [(type(e).__name__, _frame(e)) for e in defects]}


def _note_defects(defects: list[BaseException]) -> None:
    """Keep what the guard turns into "internal error": its message does not say where."""
    make = errors.InternalError.__init__

    def noting(self: errors.InternalError, *arguments: Any) -> None:
        defects.append(sys.exc_info()[1] or self)
        make(self, *arguments)

    errors.InternalError.__init__ = noting


def _redirect(sandbox: Path, output: str) -> None:
    """Standard streams as a shell would open them."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(sandbox / name, os.O_WRONLY | os.O_CREAT, 0o666), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)
    if output == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    elif output == "broken pipe":
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, 1)
    elif output == "closed":
        os.close(1)
        sys.stdout = sys.__stdout__ = None
        return
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), "utf-8")


def _exit_code(given: CommandInput) -> int:
    """The exit code that a Python process would have."""
    if given.name == INSTALLED:
        from postmortem.cli.runs_diff import main
    else:
        from postmortem.cli import main
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - as the interpreter shows it
        traceback.print_exc()
        code = 1
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        print("Exception ignored in sys.stdout", file=sys.stderr)
        code = 120
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stderr.flush()
    return code & 0xFF if isinstance(code, int) else 0 if code is None else 1


@dataclass(frozen=True)
class _Left:
    """What a command left behind: its exit code, what it printed and said, and the names of all files then and now."""

    given: CommandInput
    sandbox: Path
    before: Before
    code: int
    printed: str
    said: str

    @property
    def new(self) -> list[str]:
        return sorted(_names(self.sandbox) - self.before.names - {"stdout", "stderr"})


def judge_command(given: CommandInput, result: Mapping[str, Any], sandbox: Path, before: Before) -> Verdict:
    """What came of a command that ended by itself."""
    printed, said = ((sandbox / name).read_text("utf-8", "replace") for name in ("stdout", "stderr"))
    left = _Left(given, sandbox, before, result["code"], printed, said)
    name, outcome = given.name or "postmortem", f"exit {left.code}"
    kind, frame = result["defects"][-1] if result["defects"] and left.code == 70 else ("", "")
    for problem, check in _CHECKS.items():
        detail = check(left)
        if detail:
            return Verdict(name, outcome, problem, f"{kind}{'' if kind else detail}", frame)
    return Verdict(name, outcome)


def _traceback(left: _Left) -> str:
    shown = "Traceback (most recent" in left.printed + left.said or "Exception ignored" in left.said
    return left.said.strip().rpartition("\n")[2][:80] if shown else ""


def _messages(left: _Left) -> str:
    count = sum(line.startswith(("postmortem: ", "Error: ")) for line in left.said.splitlines())
    wanted = 0 if left.code in SILENT else 1
    helped = left.code == 2 and not count and "Usage: " in left.printed + left.said  # a command without its words
    return "" if count == wanted or helped else f"{count} lines of error with exit code {left.code}"


def _raw_control(text: str) -> str:
    """The first character that a terminal obeys or does not show; "" if there is none."""
    char = next((c for c in text if c not in _HARMLESS and unicodedata.category(c) in ("Cc", "Cf", "Cs")), "")
    return f"U+{ord(char):04X}" if char else ""


def _loose_json(left: _Left) -> str:
    if "--json" in left.given.words and left.printed and left.code in SILENT and left.given.output == "file":
        try:
            json.loads(left.printed, parse_constant=lambda name: 1 / 0)
        except (ValueError, ZeroDivisionError) as error:
            return type(error).__name__
    return ""


def _changed(left: _Left) -> str:
    for name, content in left.before.kept.items():
        file = left.sandbox / name
        if not _is_file(file) or file.read_bytes() != content:
            return name
    return ""


def _litter(left: _Left) -> str:
    """The ending of a temporary file that the command left; a replay copies those that lie in a checkpoint."""
    known = {Path(name).name for name in left.before.names}
    new = (Path(name) for name in left.new if name.endswith((".tmp", ".draft")))
    return next((path.suffix for path in new if path.name not in known), "")


def _warned(left: _Left) -> str:
    line = next((line for line in left.said.splitlines() if "Warning: " in line and ".py:" in line), "")
    return line.rpartition("/")[2][:100]


_CHECKS: Mapping[str, Callable[[_Left], str]] = {
    "traceback": _traceback,
    "exit 70": lambda left: "70" if left.code == 70 else "",
    "exit code": lambda left: "" if left.code in CODES else str(left.code),
    "ran code": lambda left: CANARY if f"box/{CANARY}" in left.new else "",
    "changed a file": _changed,
    "wrote outside": lambda left: next((name for name in left.new if not name.startswith("box/")), ""),
    "error message": _messages,
    "control character": lambda left: _raw_control(left.printed + left.said),
    "no strict JSON": _loose_json,
    "warning": _warned,
    "litter": _litter,
}
