"""Tests whether a program resumes exactly: N steps without a break against a kill at step k and a resume.

Exact means: identical loss bits, state and batches at every step, with the same number of threads. First the steps of
the killed process are compared with the straight run: a program that does not reproduce itself cannot be judged. If the
resumed run differs from the straight one, the pieces of state of both programs after the resume are compared. A piece
that differs there and still differs one step later was not restored.
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

from postmortem.atomic import make_folder, saving
from postmortem.errors import CannotWrite, InternalError, UsageError
from postmortem.resume_test.leg import KEEP, PIECES_FILE, STEPS_FILE, Leg
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
class ResumeTestResult:
    """The result. `first_step` is the first step whose `what` (loss, batch or state) differs between the runs.

    `pieces` are the (kind, path) of the state that the resume did not restore, the likeliest cause first; () if no
    piece that can be inspected differs. With the verdict "exact" they are pieces on which no loss, state or batch of
    these steps depended: averaged weights that `state_dict()` leaves out, or a schedule whose next change comes later.
    `straight` and `resumed` are the two values at `first_step`.
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
            sentence = (
                f"exact: killed at step {self.killed_at} and resumed, {self.steps - self.killed_at} steps to step "
                f"{self.steps}: loss bits, state and batches equal those of the straight run"
            )
            if not self.pieces:
                return [sentence]
            first_paths = dict(reversed(self.pieces))  # one path of each kind
            missing = ", ".join(f"{kind} ({plain(path)})" for kind, path in reversed(first_paths.items()))
            return [sentence, f"but    not restored, though without effect in these steps: {missing}"]
        place = f"first at step {self.first_step}, in its {self.what}"
        if self.what == "loss":
            place += f" ({_loss_text(self.straight)} straight, {_loss_text(self.resumed)} {self._second_run_name})"
        if self.verdict == "not repeatable":
            return [
                f"not repeatable: two straight runs differ, {place}",
                "fix the seeds and use deterministic algorithms first: torch.use_deterministic_algorithms(True)",
            ]
        lines = [f"differs: the resumed run diverges from the straight one, {place}"]
        if not self.pieces:
            return [
                *lines,
                "cause  no piece of state that can be inspected differs after the resume: is state kept elsewhere?",
            ]
        kind, path = self.pieces[0]
        lines += [f"cause  {kind}: {plain(path)} was not restored", f"fix    {_REMEDIES[kind]}"]
        other_kinds = list(dict.fromkeys(other_kind for other_kind, _ in self.pieces[1:] if other_kind != kind))
        return [*lines, f"also   {', '.join(other_kinds)}"] if other_kinds else lines

    @property
    def _second_run_name(self) -> str:
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
) -> ResumeTestResult:
    """Test the program that `program` ("module:attribute") builds from `config`.

    It is imported in child processes that search this directory first. `kill_at` is the step after which the state is
    saved (default: half of `steps`); the killed process then does `lost` more steps, which the resume repeats. `folder`
    keeps the run directory and the records; without it they are removed. `on_leg(done, all, name)` reports progress.

    Raises:
        UsageError: `kill_at` is outside the test, or the program cannot be built, stepped or saved.
    """
    kill_step = steps // 2 if kill_at is None else kill_at
    if not 0 < kill_step < steps:
        raise UsageError(f"the kill at step {kill_step} must be inside the test, from step 1 to {steps - 1}")
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="resume-test-") as scratch:
            return run_resume_test(
                program,
                config,
                steps=steps,
                kill_at=kill_step,
                lost=lost,
                threads=threads,
                folder=Path(scratch),
                on_leg=on_leg,
            )
    with saving(folder, option=KEEP):
        if any((folder / name).exists() for name in (*_LEGS, "run")):
            raise UsageError(f"{plain(folder, 1000)} contains an earlier test; choose another folder")
        make_folder(folder)
    for number, name in enumerate(_LEGS):
        if on_leg is not None:
            on_leg(number, len(_LEGS), name)
        again = min(lost, steps - kill_step - 1)
        records, run = str(folder / name), str(folder / "run")
        _run_leg(
            Leg(name, program, dict(config), records, run, steps, kill_step, again, threads), folder / f"{name}.json"
        )
    return compare_legs(folder, steps=steps, kill_at=kill_step)


_LEGS = ("straight", "killed", "resumed")


def compare_legs(folder: Path, *, steps: int, kill_at: int) -> ResumeTestResult:
    """Compare the records of the three legs in `folder`."""
    straight, killed, resumed = (_read_steps(folder / name) for name in _LEGS)
    repeated = _first_difference(straight, killed, range(max(killed, default=-1) + 1))
    if repeated is not None:
        return ResumeTestResult("not repeatable", steps, kill_at, *repeated)
    difference = _first_difference(straight, resumed, range(kill_at, steps))
    if difference is None:
        return ResumeTestResult("exact", steps, kill_at, pieces=_unrestored_pieces(folder, (), lasting_only=True))
    step, what = difference[:2]
    return ResumeTestResult(
        "differs",
        steps,
        kill_at,
        *difference,
        pieces=_unrestored_pieces(folder, _kinds_that_act(what, first=step == kill_at)),
    )


def _run_leg(leg: Leg, spec: Path) -> None:
    """Run one leg; the killed one must end by SIGKILL, the others without an error."""
    with saving(spec, option=KEEP):
        leg.write(spec)
    working_directory = str(Path.cwd())
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(leg.threads),
        "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
        "PYTHONPATH": os.pathsep.join(filter(None, [working_directory, os.environ.get("PYTHONPATH", "")])),
    }
    process = subprocess.run(
        [sys.executable, "-m", "postmortem.resume_test.leg", str(spec)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if process.returncode == (-signal.SIGKILL if leg.name == "killed" else 0):
        return
    messages = [line for line in process.stderr.strip().splitlines() if line.strip()]
    if process.returncode == CannotWrite.exit_code and messages:
        raise CannotWrite(plain(messages[-1], 1000))
    raise LegFailed(
        f"the {leg.name} leg of {plain(leg.program)} ended with {process.returncode}: "
        f"{plain(messages[-1], 400) if messages else 'it printed nothing'}. "
        f"To run it alone, keep the records (--keep DIR) and run: python -m postmortem.resume_test.leg DIR/{spec.name}"
    )


class LegFailed(UsageError):
    """A leg of a resume test did not do what it should: the program fails on its own."""


def _read_steps(folder: Path) -> dict[int, dict[str, str | None]]:
    """step → what was measured; for a step that was done twice, the last time."""
    file = folder / STEPS_FILE
    if not file.exists():
        raise InternalError(f"{plain(file, 1000)}: a leg of the test wrote no records")
    rows = [cast(dict[str, Any], json.loads(line)) for line in file.read_text().splitlines()]
    return {int(row["step"]): row for row in rows}


def _first_difference(
    a: Mapping[int, Mapping[str, str | None]], b: Mapping[int, Mapping[str, str | None]], steps: range
) -> tuple[int, str, str | None, str | None] | None:
    """(step, what, value in a, value in b) of the first difference. Within a step: the batch, then the loss, then
    state."""
    for step in steps:
        if step not in a or step not in b:
            return step, "number", "done" if step in a else "missing", "done" if step in b else "missing"
        for what in ("batch", "loss", "state"):
            if a[step][what] != b[step][what]:
                return step, what, a[step][what], b[step][what]
    return None


def _kinds_that_act(what: str, *, first: bool) -> tuple[str, ...]:
    """Kinds of state that can cause the first difference: they are blamed before all others.

    A batch depends on the loader. The loss of the first resumed step depends on the parameters, the random generators
    and the batch, but not on the optimizer; if that loss is equal and the state after it is not, the update differed.
    """
    if what == "batch":
        return "loader position", "random number generator"
    if what == "loss" and first:
        return "parameters", "random number generator", "loader position", "other state"
    return ()


def _unrestored_pieces(
    folder: Path, acting: tuple[str, ...], *, lasting_only: bool = False
) -> tuple[tuple[str, str], ...]:
    """(kind, path) of the pieces that differ after the resume and also one step later, the kinds in `acting` first.

    A piece that the next step overwrites (a rate, a gradient buffer, a clock) becomes equal again; one that differs
    between two straight runs is noise. If all differences disappear, those pieces are listed, unless `lasting_only`: a
    step may read a piece before it overwrites it.
    """
    from postmortem.program_state import StatePiece, differing_pieces

    def pieces(leg: str, number: int) -> dict[str, StatePiece]:
        file = folder / leg / PIECES_FILE.format(number)
        listed: list[list[str]] = json.loads(file.read_text()) if file.exists() else []
        return {path: StatePiece(path, kind, value) for path, kind, value in listed}

    noise = {
        piece.path
        for number in (0, 1)
        for piece in differing_pieces(pieces("straight", number), pieces("killed", number))
    }
    after_resume, one_step_later = (
        differing_pieces(pieces("straight", number), pieces("resumed", number)) for number in (0, 1)
    )
    lasting_paths = {piece.path for piece in one_step_later}
    restored_wrongly = [piece for piece in after_resume if piece.path not in noise]
    unrestored = [piece for piece in restored_wrongly if piece.path in lasting_paths] or (
        [] if lasting_only else restored_wrongly
    )
    unrestored.sort(key=lambda piece: acting.index(piece.kind) if piece.kind in acting else len(acting))
    return tuple((piece.kind, piece.path.removeprefix("state_dict ")) for piece in unrestored)


def _loss_text(text: str | None) -> str:
    return "none" if text is None else repr(float.fromhex(text))
