"""Panel 2, the learning rate: smooth, or broken against its own trend?"""

from __future__ import annotations

from postmortem.case import Case, Observation
from postmortem.panels import Panel
from postmortem.text import number, times

EXTREME_ADAM_LR = 0.05  # published Adam recipes peak between 1e-5 and 6e-3


def _measure(case: Case) -> list[Observation]:
    series = case.series("lr")
    if series is None:
        return []
    for finding in case.incident.findings:
        if finding.kind == "lr_discontinuity":
            ratio = finding.peak / finding.baseline if finding.baseline else float("inf")
            text = (
                f"jumps to {number(finding.peak)} at step {finding.onset_step} where its own trend gives "
                f"{number(finding.baseline)} ({times(ratio)})"
            )
            figures = {"value": finding.peak, "baseline": finding.baseline, "ratio": ratio}
            return [Observation("lr.jump", text, "lr", finding.onset_step, figures)]
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


PANEL = Panel(
    2,
    "lr",
    "Learning rate",
    ("lr",),
    _measure,
    "whether the schedule jumped (a warmup that ends abruptly, a restart that is misaligned): log lr each step",
    constant_is_silent=False,
)
