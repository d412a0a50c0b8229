"""Panel 3, the gradient norm before clipping: size, who moved first, and whether it moved before the loss."""

from __future__ import annotations

import numpy as np

from postmortem.case import Case, Departure, Observation
from postmortem.panels import Panel
from postmortem.panels._measuring import compared, departed, figures, order
from postmortem.text import number, times

RAISED_Z = 3.5  # neither flat nor a spike: more than the baseline ever did, less than far out of its noise


def _measure(case: Case) -> list[Observation]:
    first_bad = _first_nonfinite(case)
    if first_bad is not None:
        return [first_bad]
    up, down = case.departure("grad_norm", sign=1), case.departure("grad_norm", sign=-1)
    if up is None:
        return []
    seen: list[Observation] = []
    if up.moved and up.ratio >= 1.5:
        seen += _rise(case, up)
    elif down and down.moved and down.ratio <= 0.6:
        seen.append(Observation("grad_norm.drop", f"falls: {compared(down)}", "grad_norm", down.step, figures(down)))
    elif up.z >= RAISED_Z and up.beyond > 1 and up.ratio >= 1.5:
        text = f"raised, within what its noise could almost do: {compared(up)}"
        seen.append(Observation("grad_norm.raised", text, "grad_norm", up.step, figures(up)))
    else:
        seen.append(
            Observation(
                "grad_norm.flat", f"did not move: {compared(up)}", "grad_norm", up.step, figures(up), moved=False
            )
        )
    return seen


def _rise(case: Case, up: Departure) -> list[Observation]:
    seen = [Observation("grad_norm.spike", f"pre-clip {compared(up)}", "grad_norm", up.step, figures(up))]
    clip = case.series("clip_threshold")
    limit = clip.at(up.step) if clip else None
    if limit:
        text = f"{times(up.value / limit)} the clip threshold of {number(limit)}"
        seen.append(
            Observation(
                "grad_norm.clipped", text, "clip_threshold", up.step, {"threshold": limit, "ratio": up.value / limit}
            )
        )
    loss = case.departure("loss", sign=1)
    if loss is not None and loss.moved and up.first_step < loss.first_step:
        lead = loss.first_step - up.first_step
        text = f"moves {lead} step{'s' if lead > 1 else ''} before the loss does"
        seen.append(Observation("grad_norm.leads", text, "grad_norm", up.first_step, {"lead_steps": lead}))
    series = case.series("grad_norm")
    after = series.window(up.step + case.row_step, up.step + 21 * case.row_step).value if series else np.empty(0)
    if after.size >= 10 and float(np.median(after)) > 2 * up.baseline:
        text = f"stays up: median {number(float(np.median(after)))} over the next {after.size} rows"
        seen.append(
            Observation("grad_norm.stays_up", text, "grad_norm", up.step, {"median_after": float(np.median(after))})
        )
    moved, _ = departed(case, case.family("grad_norm/"), sign=1)
    if moved:
        text = f"groups in the order in which they moved: {order(moved)}"
        seen.append(
            Observation("grad_norm.order", text, moved[0].column, moved[0].first_step, {"first": moved[0].column})
        )
    return seen


def _first_nonfinite(case: Case) -> Observation | None:
    series = case.series("grad_norm")
    near = series.window(*case.span) if series else None
    if near is None or np.isfinite(near.value).all():
        return None
    step = int(near.step[~np.isfinite(near.value)][0])
    loss = case.series("loss")
    at = loss.at(step) if loss else None
    if at is not None and np.isfinite(at):
        text = f"non-finite at step {step} while the loss of that step is still finite ({number(at)})"
        return Observation("grad_norm.nonfinite_first", text, "grad_norm", step, {"loss": at})
    return Observation("grad_norm.nonfinite", f"non-finite from step {step}, together with the loss", "grad_norm", step)


PANEL = Panel(
    3,
    "grad_norm",
    "Gradient norm (pre-clip)",
    ("grad_norm", "grad_norm_clipped", "clip_threshold", "grad_norm/*"),
    _measure,
    (
        "whether the gradient exploded before the loss (data, overflow) or stayed calm (a logging fault): log "
        "grad_norm before clipping"
    ),
    log_scale=True,
    observes=(
        "grad_norm.drop",
        "grad_norm.raised",
        "grad_norm.flat",
        "grad_norm.spike",
        "grad_norm.clipped",
        "grad_norm.leads",
        "grad_norm.stays_up",
        "grad_norm.order",
        "grad_norm.nonfinite_first",
        "grad_norm.nonfinite",
    ),
)
