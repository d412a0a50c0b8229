"""Panel 2, the learning rate: smooth, or broken against its own trend?"""

from __future__ import annotations

from postmortem.case import BASELINE_ROWS, Case, Observation
from postmortem.detectors import Finding
from postmortem.panels import Panel
from postmortem.series import Series
from postmortem.text import number, times

_JUMP = "lr_discontinuity"
EXTREME_ADAM_LR = 0.05  # published Adam recipes peak between 1e-5 and 6e-3


def _measure(case: Case) -> list[Observation]:
    series = case.series("lr")
    if series is None:
        return []
    jump = _own_jump(case) or _earlier_jump(case, series)
    if jump is not None:
        ratio = _ratio(jump)
        text = (
            f"jumps to {number(jump.peak)} at step {jump.onset_step} where its own trend gives "
            f"{number(jump.baseline)} ({times(ratio)})"
        )
        figures = {"value": jump.peak, "baseline": jump.baseline, "ratio": ratio}
        return [Observation("lr.jump", text, "lr", jump.onset_step, figures)]
    near = series.window(case.onset - 10 * case.row_step, case.span[1])
    if len(near) < 3:
        return []
    value = float(near.value[-1])
    seen = [
        Observation(
            "lr.smooth",
            f"smooth through the incident ({number(value)}), no jump",
            "lr",
            case.onset,
            {"value": value},
            moved=False,
        )
    ]
    highest = float(series.value.max())
    if highest > 0 and series.value.min() < 0.9 * highest and value >= 0.9 * highest:
        text = f"within 10 % of its highest value ({number(highest)}) when it happened"
        seen.append(
            Observation("lr.near_peak", text, "lr", case.onset, {"value": value, "highest": highest}, moved=False)
        )
    if value >= EXTREME_ADAM_LR and case.series("adam_v_norm") is not None:
        text = f"{number(value)} is ten times what Adam trains well with anywhere in the literature"
        seen.append(Observation("lr.extreme", text, "lr", case.onset, {"value": value}, moved=False))
    return seen


def _own_jump(case: Case) -> Finding | None:
    """The incident's first jump; one after its peak is no cause of it."""
    return next(
        (f for f in case.incident.findings if f.kind == _JUMP and f.onset_step <= case.incident.peak_step), None
    )


def _earlier_jump(case: Case, series: Series) -> Finding | None:
    """The last jump upwards not long before the onset, of an incident of its own, if the rate is still up by then."""
    since = case.onset - BASELINE_ROWS * case.row_step
    before = [i for i in case.incidents if (i.attempt, i.discarded) == (case.incident.attempt, case.incident.discarded)]
    jumps = [f for i in before for f in i.findings if f.kind == _JUMP and since <= f.onset_step < case.onset]
    last = max(jumps, key=lambda f: f.onset_step, default=None)
    then = series.window(0, case.onset + 1).value[-1:]
    if last is None or _ratio(last) <= 1 or not then.size:
        return None
    return last if then[0] >= last.baseline + 0.5 * (last.peak - last.baseline) else None


def _ratio(jump: Finding) -> float:
    return jump.peak / jump.baseline if jump.baseline else float("inf")


PANEL = Panel(
    2,
    "lr",
    "Learning rate",
    ("lr",),
    _measure,
    "whether the schedule jumped (a warmup that ends abruptly, a restart that is misaligned): log lr each step",
    constant_is_silent=False,
    observes=(
        "lr.jump",
        "lr.smooth",
        "lr.near_peak",
        "lr.extreme",
    ),
)
