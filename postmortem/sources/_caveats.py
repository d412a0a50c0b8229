"""What a run's steps and its loss look like once they are read: gaps, blanks, values that are no finite number."""

from __future__ import annotations

import numpy as np

from postmortem.run.model import Run
from postmortem.series import Steps

_GAP = 3  # times the distance of the rows before and behind it


def noticed(run: Run, shown: str) -> tuple[str, ...]:
    """Notes, one sentence each, on the effective history. `shown` names the file of the rows."""
    notes = [*_gaps(run.row_steps, shown)]
    loss = run.series("loss")
    if loss is None:
        return tuple(notes)
    if len(loss) < run.row_steps.size:
        blank = run.row_steps[~np.isin(run.row_steps, loss.step, assume_unique=True)]
        notes.append(
            f"{shown}: loss is blank in {blank.size} of {run.row_steps.size} steps, the first is {blank[0]}: "
            "read as not logged"
        )
    broken = loss.step[~np.isfinite(loss.value)]
    if broken.size:
        notes.append(
            f"{shown}: loss is NaN or infinite in {broken.size} of {len(loss)} steps, the first is {broken[0]}: "
            "read as a non-finite loss"
        )
    return tuple(notes)


def _gaps(steps: Steps, shown: str) -> list[str]:
    """Stretches without a row, by the rows around them: a logger that changes its pace leaves no gap."""
    apart = np.diff(steps)
    if apart.size < 2 or apart.max() <= _GAP * apart.min():
        return []
    before, behind = np.r_[apart[1], apart[:-1]], np.r_[apart[1:], apart[-2]]
    wide = np.flatnonzero(apart > _GAP * np.maximum(before, behind))
    if not wide.size:
        return []
    widest = wide[np.argmax(apart[wide])]
    where = f"between steps {steps[widest]} and {steps[widest + 1]}"
    found = f"no row {where}" if wide.size == 1 else f"{wide.size} gaps in the steps, the widest {where}"
    return [f"{shown}: {found}: nothing is assumed of what happened there"]
