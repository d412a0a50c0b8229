"""Measures whether what moved, moved with the epochs: then the order of the data moved it, and no single batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from postmortem.case import Case, Observation
from postmortem.detectors import EpochSteps, at_epoch_starts, epoch_level_steps, epoch_starts
from postmortem.text import count

SHARE = 0.5  # of the incidents of the loss that begin where an epoch does, from which they are told as one thing


def epoch_period(case: Case) -> Iterator[Observation]:
    """That the loss steps at the start of each epoch, or that its incidents begin there."""
    lineage = case.incident.lineage
    restarts = [segment.first_step for segment in case.run.segments if segment.attempt > 0]
    starts = epoch_starts(case.run.epoch(attempt=lineage), case.series("batch_index"), restarts)
    loss = case.series("loss")
    if loss is None or not starts.size:
        return
    steps = epoch_level_steps(loss, starts, smoothed="loss" in case.run.smoothed)
    here = _at_start(case.onset, loss.step, starts)
    if steps is not None and (here or _part_of(case, steps)):
        rows = steps.rows
        moves, back = ("falls", "rises") if steps.falls else ("rises", "falls")
        between = f" and {back} in between" if steps.returns else ""
        text = (
            f"the loss {moves} at the start of {rows.size} of {steps.starts} epochs{between}, first at step "
            f"{int(loss.step[rows[0]])} and then every {count(steps.period, 'row')}: its movement has the period of an "
            "epoch"
        )
        figures = {"steps": int(rows.size), "starts": steps.starts, "period_rows": steps.period}
        yield Observation("data.epoch_period", text, "loss", int(loss.step[rows[0]]), figures)
        return
    of_loss = [i for i in case.incidents if i.lineage == lineage and any(f.column == "loss" for f in i.findings)]
    onsets = {i.onset_step for i in of_loss}
    with_epochs = [onset for onset in onsets if _at_start(onset, loss.step, starts)]
    if here and len(with_epochs) > 1 and len(with_epochs) >= SHARE * len(onsets):
        text = (
            f"{len(with_epochs)} of {count(len(onsets), 'incident')} of the loss begin where one of "
            f"{starts.size + 1} epochs does: its movement has the period of an epoch"
        )
        figures = {"steps": len(with_epochs), "starts": int(starts.size)}
        yield Observation("data.epoch_period", text, "loss", case.onset, figures)
    elif here and case.loss_moved():
        text = f"the incident begins where an epoch does, and only {starts.size} of {count(len(loss), 'row')} do"
        yield Observation("data.epoch_start", text, "loss", case.onset, {"starts": int(starts.size)})


def _part_of(case: Case, steps: EpochSteps) -> bool:
    """Whether the incident is the steps themselves, or a rise of the loss within an epoch that each of them has."""
    f, largest = case.primary, float(np.abs(steps.before - steps.after).max()) / steps.loss.unit
    rises = steps.returns and f.column == "loss" and f.figures.get("height", np.inf) <= largest
    return rises or any(f.kind == "epoch_steps" for f in case.incident.findings)


def _at_start(onset: int, step: np.ndarray, starts: np.ndarray) -> bool:
    """Whether the row of `onset`, of the steps int64[n] of a column, is where an epoch starts."""
    row = min(int(np.searchsorted(step, onset)), step.size - 1)
    return at_epoch_starts(step, row, starts)
