"""The writers that kills.py kills: how each begins, what it does, and what has to hold after the kill and after
a second run of the same command.

A case works in a folder of its own, which is also the current directory of its processes. `prepare` makes what is
there before; `commands` are started together; `check` looks at what the kill left; then each command runs again, and
what is there has to be what an undisturbed run leaves.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from _measure import POSTMORTEM, ROOT

SAMPLES = ROOT / "sample_runs"
SPIKE, CLEAN, RECOVERED = "19-spike-001", "19-clean-001", "19-spike-001-recovered"
_INTERVAL_S, _MARGIN_S = 0.05, 0.35  # of the recorder's writer thread, and for a loaded machine
_NOTES = "\nWritten by hand.\n"
_EARLIER = "- undated · an earlier run · step 7 · A lesson written by hand.\n"

_RECORDING = """
import sys, time
from pathlib import Path
from postmortem.record import Recorder
from postmortem.sources import open_run

run = Path("run")
rows = open_run(run).series("loss") if (run / "metrics").is_dir() and any((run / "metrics").iterdir()) else None
with Recorder(run, flush_interval_s=0.05, provenance=False, on_error="raise") as rec, open("acks", "a", 1) as acks:
    for step in range(0 if rows is None else int(rows.step[-1]) + 1, 400):
        rec.batch(step, [[step, 1, 2], [3, 4, 5]], index=step)
        rec.log(step, loss=2.0 + (step % 150 == 149) * 50.0, lr=3e-4 / (step + 1))
        if step % 40 == 0:
            rec.event("note", step, at=step)
            acks.write(f"event {step} {time.time()}\\n")
        acks.write(f"row {step} {time.time()}\\n")
        time.sleep(0.002)
"""
_SAVING = """
import hashlib, time
import torch
from postmortem.checkpoint import Checkpointer, Policy, TrainState
from postmortem.record import Recorder

torch.manual_seed(0)
model = torch.nn.Linear(64, 64)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
policy = Policy(rollback_every=2, recovery_every=6, rollback_keep=2, recovery_keep=2)
with Recorder("run", flush_interval_s=0.05, provenance=False) as rec:
    with Checkpointer(rec, TrainState(model, optimizer), policy) as saves:
        resumed = saves.resume()
        for step in range(resumed.step if resumed else 0, 60):
            loss = model(torch.full((4, 64), float(step % 7))).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rec.log(step, loss=loss.item())
            saves.maybe_save(step + 1)
            time.sleep(0.01)
digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()
open("digest", "w").write(digest)
"""


@dataclass(frozen=True)
class Case:
    """One writer. `kills` of it are made; `same` are the files of its result that have to be the same byte for byte as
    in an undisturbed run, `shown` the lines of its output (each a regular expression)."""

    name: str
    kills: int
    commands: Callable[[], Sequence[Sequence[str]]]
    prepare: Callable[[Path], None]
    check: Callable[[Path, float], Iterator[str]]
    same: str = r"(?!)"
    shown: str = r"(?!)"


def _nothing(folder: Path, killed: float) -> Iterator[str]:
    return iter(())


def _copy(*names: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        for name in names:
            shutil.copytree(SAMPLES / name, folder / name, symlinks=True)
            shutil.rmtree(folder / name / "postmortem", ignore_errors=True)

    return prepare


def run_in(folder: Path, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run `command` to its end in `folder`."""
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def postmortem(*words: str) -> Callable[[], Sequence[Sequence[str]]]:
    """One command of the tool."""
    return lambda: [(*POSTMORTEM, *words)]


def _check_recorder(folder: Path, killed: float) -> Iterator[str]:
    """Every row that is older than the flush interval is there, and every event whose call has returned."""
    from postmortem.sources import open_run

    acks = [line.split() for line in (folder / "acks").read_text().splitlines()] if (folder / "acks").exists() else []
    acks = [ack for ack in acks if len(ack) == 3]
    if not acks:
        return
    run = open_run(folder / "run")
    for column, values in (("loss", run.series("loss")), ("batch_hash", run.labels("batch_hash"))):
        steps = [] if values is None else [int(step) for step in values.step]
        due = [int(step) for kind, step, at in acks if kind == "row" and killed - float(at) > _INTERVAL_S + _MARGIN_S]
        if steps != list(range(len(steps))):
            yield f"{column}: rows have gaps"
        if len(steps) <= max(due, default=-1):
            yield f"{column}: {len(steps)} rows, {max(due) + 1} were due"
    kept = {event.step for event in run.journal if event.event == "note"}
    lost = {int(step) for kind, step, _ in acks if kind == "event"} - kept
    if lost:
        yield f"events lost: {sorted(lost)}"


def _check_checkpoints(folder: Path, killed: float) -> Iterator[str]:
    """Every checkpoint that is listed as complete is sound, and `latest` leads to one."""
    if not any((folder / "run").glob("*/*.dcp")):
        return
    listed = run_in(folder, (*POSTMORTEM, "checkpoints", "run", "--json"))
    if listed.returncode:
        yield f"checkpoints: exit {listed.returncode}: {listed.stderr.strip()[:200]}"
        return
    found = json.loads(listed.stdout)
    yield from (
        f"{c['path']}: not sound: {c['problems']}" for c in found["checkpoints"] if c["complete"] and not c["sound"]
    )
    link = folder / "run" / "latest"
    if link.is_symlink() and not (link / "checkpoint.json").exists():
        yield "latest leads nowhere"


def _redraft(folder: Path) -> None:
    """A run with an earlier report, whose files all differ from the next draft's, and with notes."""
    _copy(SPIKE)(folder)
    ended = run_in(folder, (*POSTMORTEM, "draft", SPIKE))
    if ended.returncode:
        raise RuntimeError(ended.stderr)
    report = folder / SPIKE / "postmortem"
    for file in (report / "diagnosis.json", *report.glob("panels/*.png")):
        file.write_bytes(file.read_bytes() + b"\n")
    text = (report / "report.md").read_text()
    (report / "report.md").write_text("Old. " + text + _NOTES)


def _check_report(folder: Path, killed: float) -> Iterator[str]:
    """The report is the whole old or the whole new one; notes stay."""
    report = folder / SPIKE / "postmortem"
    if not report.is_dir():
        return
    old = [(report / "report.md").read_text().startswith("Old. ")]
    for file in (report / "diagnosis.json", *sorted(report.glob("panels/*.png"))):
        data = file.read_bytes()
        whole = (
            data.rstrip().endswith(b"}") if file.suffix == ".json" else data.rstrip(b"\n").endswith(b"IEND\xaeB`\x82")
        )
        if not whole:
            yield f"{file.name}: half a file"
        old.append(data.endswith((b"}\n\n", b"\x82\n")))
    if any(old) and not all(old):
        yield "report: files of two drafts"
    if any(old) and _NOTES not in (report / "report.md").read_text():
        yield "report: notes are lost"


def _lessons(folder: Path) -> None:
    _copy(SPIKE, "20-run-002", "20-run-003")(folder)
    (folder / "lessons.md").write_text(_EARLIER)


def _check_lessons(folder: Path, killed: float) -> Iterator[str]:
    text = (folder / "lessons.md").read_text() if (folder / "lessons.md").exists() else ""
    if not text.startswith(_EARLIER):
        yield "lessons: earlier lines are lost"
    if not text.endswith("\n"):
        yield "lessons: half a line"


def _check_diff(folder: Path, killed: float) -> Iterator[str]:
    for file in (folder / "out").glob("*") if (folder / "out").is_dir() else ():
        if file.suffix == ".json" and file.name[0] != ".":
            try:
                json.loads(file.read_bytes())
            except ValueError:
                yield f"{file.name}: half a file"


def _drafted(folder: Path) -> None:
    _copy(SPIKE)(folder)
    ended = run_in(folder, (*POSTMORTEM, "draft", SPIKE))
    if ended.returncode:
        raise RuntimeError(ended.stderr)


def _check_records(folder: Path, killed: float) -> Iterator[str]:
    """Records of replays are whole: what exists can be read."""
    for file in (folder / SPIKE / "postmortem").rglob("*.json"):
        if file.name[0] != "." and ".tmp" not in str(file.relative_to(folder)):
            try:
                json.loads(file.read_bytes())
            except ValueError:
                yield f"{file.relative_to(folder)}: half a file"


_REPORT = rf"{SPIKE}/postmortem/(report\.md|diagnosis\.json|panels/.+\.png)|lessons\.md"
CASES = (
    Case("recorder", 50, lambda: [(sys.executable, "-c", _RECORDING)], _copy(), _check_recorder),
    Case("checkpoint", 30, lambda: [(sys.executable, "-c", _SAVING)], _copy(), _check_checkpoints, same="digest"),
    Case("draft", 45, postmortem("draft", SPIKE), _copy(SPIKE), _check_report, same=_REPORT),
    Case("re-draft", 45, postmortem("draft", SPIKE), _redraft, _check_report, same=_REPORT),
    Case(
        "lessons",
        40,
        lambda: [(*POSTMORTEM, "draft", name) for name in (SPIKE, "20-run-002", "20-run-003")],
        _lessons,
        _check_lessons,
        same=r".+/report\.md",
    ),
    Case("runs-diff", 40, postmortem("diff", CLEAN, RECOVERED, "--out", "out"), _copy(CLEAN, RECOVERED), _check_diff,
         same="out/.+"),
    Case("replay", 15, postmortem("replay", SPIKE, "--until", "320"), _copy(SPIKE), _check_records, shown=r"R0 "),
    Case("probe", 15, postmortem("probe", SPIKE, "312:314"), _copy(SPIKE), _check_records, shown=r"probe "),
    Case("prove", 10, postmortem("prove", SPIKE), _copy(SPIKE), _check_records, shown=r"verdict "),
    Case("verify", 10, postmortem("verify", f"{SPIKE}/postmortem/diagnosis.json"), _drafted, _check_records,
         shown=r"(pass|FAIL) "),
)  # fmt: skip


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below `folder` → SHA-256; links by their target."""
    files: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            files[name] = f"-> {path.readlink()}"
        elif path.is_file():
            files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif not any(path.iterdir()):
            files[name + "/"] = ""
    return files


def is_released_lock(name: str) -> bool:
    """Whether a path is the lock of a replay that was not finished: the system has released it with the process, and
    the next start of the same replay removes it."""
    return re.search(r"/replays/.+/\.writer-\d+\.lock\Z", name) is not None


def is_litter(name: str) -> bool:
    """Whether a path looks like a stage, a temporary file or a lock."""
    parts = name.rstrip("/").split("/")
    return any((part.startswith(".") and part != ".metadata") or ".tmp" in part for part in parts)


def problems_after(case: Case, folder: Path, outputs: Sequence[str], reference: Reference) -> Iterator[str]:
    """What differs after the second run from an undisturbed one."""
    files = snapshot(folder)
    for name in sorted(files.keys() - reference.files.keys()):
        if is_litter(name) or not re.search(r"/replays/|^run/|^acks$", name):
            yield f"litter: {re.sub(r'[0-9a-z_]{8}(?=[.])', '*', name)}"
    for name, digest in reference.files.items():
        if re.fullmatch(case.same, name) and files.get(name) != digest:
            yield f"{name}: {'differs' if name in files else 'missing'}"
    for output, expected in zip(outputs, reference.outputs, strict=True):
        shown, wanted = (
            [line for line in text.splitlines() if re.match(case.shown, line)] for text in (output, expected)
        )
        if shown != wanted:
            yield f"output: {shown} instead of {wanted}"
    if case.name == "recorder":
        yield from _check_recorder(folder, time.time() + 60)
    if case.name == "lessons" and sorted((folder / "lessons.md").read_text().splitlines()) != list(reference.lessons):
        yield "lessons.md: other lines than undisturbed"


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: its seconds, how often a file appeared or changed its size, its files, and its outputs."""

    seconds: float
    changes: int
    files: dict[str, str]
    outputs: tuple[str, ...]
    lessons: tuple[str, ...]
