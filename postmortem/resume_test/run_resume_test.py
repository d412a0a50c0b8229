"""Does a program resume exactly? N steps straight against a kill at step k and a resume, compared bit by bit.

Equal means: identical loss bits, state and batches at every step, on one number of threads. What the killed process
did before it died is held against the straight run first: a program that does not repeat itself cannot be judged.
Where the resumed run parts from the straight one, the pieces of both programs are compared as they stood after the
resume. A piece that differs then and still differs one step later was not restored.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from postmortem.errors import InternalError, UsageError
from postmortem.resume_test.leg import PIECES_FILE, STEPS_FILE, Leg
from postmortem.text import plain

Verdict = Literal["exact", "differs", "not repeatable"]
_REMEDIES = {
    "parameters": "save and load the model's whole state_dict(), buffers included",
    "optimizer moments": "save and load optimizer.state_dict(); without it the resume is an optimizer reset",
    "optimizer step count": "save and load the optimizer's step with its moments: bias correction depends on it",
    "optimizer hyperparameters": "restore betas, eps and weight decay of every parameter group",
    "scheduler": "save and load scheduler.state_dict(), or derive the rate from the restored step",
    "loss scaler": "save and load scaler.state_dict()",
    "loader position": "save the index of the next batch and start the loader there",
    "random number generator": "save and restore the state of every generator that a step draws from",
    "other state": "add it to state_dict() and load_state_dict()",
}


@dataclass(frozen=True)
class ResumeTest:
    """What came out. `first_step` is the first step whose `what` (loss, batch or state) differs between the runs.

    `pieces` are the (kind, path) of what the resume did not restore, the first to blame first; () where nothing that
    can be looked into differs. Beside "exact" they are what no loss, state or batch of these steps depended on:
    averaged weights that `state_dict()` leaves out, or a schedule whose next change comes later. `straight` and
    `resumed` are the two values at `first_step`.
    """

    verdict: Verdict
    steps: int
    killed_at: int
    first_step: int | None = None
    what: str | None = None
    straight: str | None = None
    resumed: str | None = None
    pieces: tuple[tuple[str, str], ...] = ()

    def lines(self) -> list[str]:
        """The result in sentences, the most important first."""
        if self.verdict == "exact":
            said = (
                f"exact: killed at step {self.killed_at} and resumed, {self.steps - self.killed_at} steps to step "
                f"{self.steps}: loss bits, state and batches are those of the straight run"
            )
            if not self.pieces:
                return [said]
            first = dict(reversed(self.pieces))  # one path of each kind
            unseen = ", ".join(f"{kind} ({plain(path)})" for kind, path in reversed(first.items()))
            return [said, f"but    not restored, and without effect within these steps: {unseen}"]
        where = f"first at step {self.first_step}, in its {self.what}"
        if self.what == "loss":
            where += f" ({_readable(self.straight)} straight, {_readable(self.resumed)} {self._other})"
        if self.verdict == "not repeatable":
            return [
                f"not repeatable: two straight runs differ, {where}",
                "fix the seeds and use deterministic algorithms first: torch.use_deterministic_algorithms(True)",
            ]
        lines = [f"differs: the resumed run parts from the straight one, {where}"]
        if not self.pieces:
            return [*lines, "cause  nothing that can be looked into differs after the resume: state outside of it?"]
        kind, path = self.pieces[0]
        lines += [f"cause  {kind}: {plain(path)} was not restored", f"fix    {_REMEDIES[kind]}"]
        others = list(dict.fromkeys(other for other, _ in self.pieces[1:] if other != kind))
        return [*lines, f"also   {', '.join(others)}"] if others else lines

    @property
    def _other(self) -> str:
        return "resumed" if self.verdict == "differs" else "again"


def run_resume_test(
    program: str,
    config: Mapping[str, Any],
    *,
    steps: int = 40,
    kill_at: int | None = None,
    lost: int = 3,
    threads: int = 1,
    folder: Path | None = None,
    on_leg: Callable[[int, int, str], None] | None = None,
) -> ResumeTest:
    """Test the program that `program` ("module:attribute") builds of `config`.

    It is imported in child processes that see this directory first. `kill_at` is the step after which the state is
    saved (half of `steps` unless given), `lost` how many further steps are done before the kill and done again by the
    resume. `folder` keeps the run directory and the records; without it they are removed. `on_leg(done, all, name)`
    tells of progress.

    Raises:
        UsageError: steps that do not fit, or a program that cannot be built, stepped or saved.
    """
    at = steps // 2 if kill_at is None else kill_at
    if not 0 < at < steps:
        raise UsageError(f"the kill at step {at} must lie inside the test, from step 1 to {steps - 1}")
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="resume-test-") as scratch:
            return run_resume_test(
                program,
                config,
                steps=steps,
                kill_at=at,
                lost=lost,
                threads=threads,
                folder=Path(scratch),
                on_leg=on_leg,
            )
    if any((folder / name).exists() for name in (*_LEGS, "run")):
        raise UsageError(f"{plain(folder, 1000)} holds an earlier test; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(_LEGS):
        if on_leg is not None:
            on_leg(number, len(_LEGS), name)
        again = min(lost, steps - at - 1)
        records, run = str(folder / name), str(folder / "run")
        _run(Leg(name, program, dict(config), records, run, steps, at, again, threads), folder / f"{name}.json")
    return compare(folder, steps=steps, at=at)


_LEGS = ("straight", "killed", "resumed")


def compare(folder: Path, *, steps: int, at: int) -> ResumeTest:
    """Judge the records of the three legs in `folder`."""
    straight, killed, resumed = (_steps(folder / name) for name in _LEGS)
    again = _first_difference(straight, killed, range(max(killed, default=-1) + 1))
    if again is not None:
        return ResumeTest("not repeatable", steps, at, *again)
    found = _first_difference(straight, resumed, range(at, steps))
    if found is None:
        return ResumeTest("exact", steps, at, pieces=_unrestored(folder, (), lasting_only=True))
    step, what = found[:2]
    return ResumeTest("differs", steps, at, *found, pieces=_unrestored(folder, _acting(what, first=step == at)))


def _run(leg: Leg, spec: Path) -> None:
    """Run one leg; the killed one has to die by SIGKILL, the others to end well."""
    leg.write(spec)
    here = str(Path.cwd())
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(leg.threads),
        "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
        "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")])),
    }
    done = subprocess.run(
        [sys.executable, "-m", "postmortem.resume_test.leg", str(spec)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == (-signal.SIGKILL if leg.name == "killed" else 0):
        return
    said = [line for line in done.stderr.strip().splitlines() if line.strip()]
    raise LegFailed(
        f"the {leg.name} leg of {plain(leg.program)} ended with {done.returncode}: "
        f"{plain(said[-1], 400) if said else 'it said nothing'}. "
        f"To see it alone, keep the records (--keep DIR) and run: python -m postmortem.resume_test.leg DIR/{spec.name}"
    )


class LegFailed(UsageError):
    """A leg of a resume test did not do what it should: the program fails on its own."""


def _steps(folder: Path) -> dict[int, dict[str, str | None]]:
    """step → what it measured; of a step that was done twice, the last."""
    file = folder / STEPS_FILE
    if not file.exists():
        raise InternalError(f"{plain(file, 1000)}: a leg of the test wrote nothing")
    rows = [cast(dict[str, Any], json.loads(line)) for line in file.read_text().splitlines()]
    return {int(row["step"]): row for row in rows}


def _first_difference(
    a: Mapping[int, Mapping[str, str | None]], b: Mapping[int, Mapping[str, str | None]], steps: range
) -> tuple[int, str, str | None, str | None] | None:
    """(step, what, value in a, value in b) of the first difference; batch before loss before state within a step."""
    for step in steps:
        if step not in a or step not in b:
            return step, "number", "done" if step in a else "missing", "done" if step in b else "missing"
        for what in ("batch", "loss", "state"):
            if a[step][what] != b[step][what]:
                return step, what, a[step][what], b[step][what]
    return None


def _acting(what: str, *, first: bool) -> tuple[str, ...]:
    """Kinds of state that can act where the runs part: blamed before those that cannot.

    A batch comes from the loader. The loss of the first resumed step knows the parameters, what generators give and the
    batch, but no optimizer; where it is equal and the state after it is not, the update was another.
    """
    if what == "batch":
        return "loader position", "random number generator"
    if what == "loss" and first:
        return "parameters", "random number generator", "loader position", "other state"
    return ()


def _unrestored(folder: Path, acting: tuple[str, ...], *, lasting_only: bool = False) -> tuple[tuple[str, str], ...]:
    """(kind, path) of the pieces that differ after the resume and still do one step later, kinds of `acting` first.

    A piece that the next step writes anew (a rate, a gradient buffer, a clock) heals; one that differs between two
    straight runs is noise. Where every difference heals, those that healed are named, unless `lasting_only`: a step may
    read before it writes.
    """
    from postmortem.live_state import StatePiece, differing

    def pieces(leg: str, number: int) -> dict[str, StatePiece]:
        file = folder / leg / PIECES_FILE.format(number)
        listed: list[list[str]] = json.loads(file.read_text()) if file.exists() else []
        return {path: StatePiece(path, kind, value) for path, kind, value in listed}

    noise = {p.path for number in (0, 1) for p in differing(pieces("straight", number), pieces("killed", number))}
    now, later = (differing(pieces("straight", number), pieces("resumed", number)) for number in (0, 1))
    lasting = {piece.path for piece in later}
    first = [piece for piece in now if piece.path not in noise]
    found = [piece for piece in first if piece.path in lasting] or ([] if lasting_only else first)
    found.sort(key=lambda piece: acting.index(piece.kind) if piece.kind in acting else len(acting))
    return tuple((piece.kind, piece.path.removeprefix("state_dict ")) for piece in found)


def _readable(text: str | None) -> str:
    return "none" if text is None else repr(float.fromhex(text))
