"""Panel 9, numerics: loss scale, skipped steps, non-finite values, and the range of the dtype."""

from __future__ import annotations

import numpy as np

from postmortem.case import Case, Observation
from postmortem.panels import Panel
from postmortem.panels._measuring import column_names, first_nonfinite, grouped, incident_rows
from postmortem.series import Steps
from postmortem.text import count, plain

HALF = {"fp16", "float16", "half", "torch.float16"}


def _measure(case: Case) -> list[Observation]:
    observations = [*_loss_scale(case), *_skipped(case), *_nonfinite_count(case), *_dtype(case)]
    counted = [n for n in ("skipped", "nonfinite_count") if (s := case.series(n)) and len(s.window(*case.span))]
    if observations or not counted or any(first_nonfinite(case, n) is not None for n in counted):
        return observations
    return [
        Observation("numerics.finite", f"{column_names(counted)}: 0 in each row", counted[0], case.onset, moved=False)
    ]


def _loss_scale(case: Case) -> list[Observation]:
    drop = next((f for f in case.incident.findings if f.column == "loss_scale" and f.kind == "loss_scale_drop"), None)
    if drop is None:
        scale = case.series("loss_scale")
        if scale is None or not len(near := scale.window(*case.span)):
            return []
        if first_nonfinite(case, "loss_scale") is not None or (np.diff(near.value) < 0).any():
            return []
        return [Observation("numerics.scale_flat", "loss_scale does not fall", "loss_scale", case.onset, moved=False)]
    text = (
        f"loss_scale falls from {grouped(drop.baseline)} to {grouped(drop.peak)}, beginning at step {drop.onset_step}"
    )
    loss = case.departure("loss", sign=1)
    leads = loss is None or not loss.moved or drop.onset_step <= loss.first_step
    slug = "numerics.scale_drop_first" if leads else "numerics.scale_drop"
    return [Observation(slug, text, "loss_scale", drop.onset_step, {"before": drop.baseline, "after": drop.peak})]


def _skipped(case: Case) -> list[Observation]:
    """How many updates the trainer skipped, and whether what it logged of these steps says why.

    A loss scaler skips where scaled gradients overflow: their norm is not finite, while the loss is. Other trainers
    skip where the loss is NaN, or where the gradient norm is finite but large, in any dtype.
    """
    series = case.series("skipped")
    rows = incident_rows(case, series.increments()) if series is not None else None
    hit = np.empty(0, bool) if rows is None else rows.value > 0
    if rows is None or not hit.any():
        return []
    steps, total = rows.step[hit], float(rows.value[hit].sum())
    text = f"skipped: {grouped(total)} {'update' if total == 1 else 'updates'}, the first at step {int(steps[0])}"
    slug = "numerics.skipped"
    if _share_finite(case, "loss", steps) <= 0.5:
        slug, text = "numerics.skipped_nonfinite_loss", f"{text}; the loss of these steps is non-finite"
    elif _share_finite(case, "grad_norm", steps) > 0.5:
        slug, text = "numerics.skipped_finite", f"{text}; grad_norm of these steps is finite, so nothing overflowed"
    return [Observation(slug, text, "skipped", int(steps[0]), {"total": total})]


def _share_finite(case: Case, name: str, steps: Steps) -> float:
    """The share of finite values among those that the column logged at `steps`; NaN where it logged none."""
    series = case.series(name)
    logged = np.empty(0) if series is None else series.value[np.isin(series.step, steps)]
    return float(np.mean(np.isfinite(logged))) if logged.size else float("nan")


def _nonfinite_count(case: Case) -> list[Observation]:
    """Logs count elements, gradients or steps in this column: so it says in how many rows, not how many values."""
    series = case.series("nonfinite_count")
    rows = incident_rows(case, series.increments()) if series is not None else None
    hit = np.empty(0, bool) if rows is None else rows.value > 0
    if rows is None or not hit.any():
        return []
    step, most = int(rows.step[hit][0]), float(rows.value[hit].max())
    number_of_rows = int(hit.sum())
    text = (
        f"nonfinite_count is above 0 in {count(number_of_rows, 'row')} (at most {grouped(most)}), first at step {step}"
    )
    figures = {"rows": number_of_rows, "most": most}
    return [Observation("numerics.nonfinite_gradient", text, "nonfinite_count", step, figures)]


def _dtype(case: Case) -> list[Observation]:
    dtype = (case.run.manifest.dtype or "").lower()
    if not dtype:
        return []
    slug = "numerics.half" if dtype in HALF else "numerics.wide_range"
    reach = "ends at 65,504" if dtype in HALF else "represents magnitudes up to 3e38: no overflow at 65,504"
    return [Observation(slug, f"dtype {plain(dtype, 20)} {reach}", step=case.onset, moved=False)]


PANEL = Panel(
    9,
    "numerics",
    "Numerics",
    ("loss_scale", "skipped", "nonfinite_count"),
    _measure,
    "whether half precision overflowed: log loss_scale and skipped steps, and write the dtype into run.json",
    log_scale=True,
    constant_is_silent=False,
    without_columns=lambda case: bool(case.run.manifest.dtype),
    observes=(
        "numerics.scale_drop_first",
        "numerics.scale_drop",
        "numerics.scale_flat",
        "numerics.skipped",
        "numerics.skipped_nonfinite_loss",
        "numerics.skipped_finite",
        "numerics.nonfinite_gradient",
        "numerics.half",
        "numerics.wide_range",
        "numerics.finite",
        "numerics.nonfinite",
    ),
    nonfinite="numerics.nonfinite",
)
