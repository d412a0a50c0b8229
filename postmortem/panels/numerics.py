"""Panel 9, numerics: loss scale, skipped steps, non-finite values, and the range of the dtype."""

from __future__ import annotations

from postmortem.case import Case, Observation
from postmortem.panels import Panel
from postmortem.panels._measuring import grouped
from postmortem.text import plain

HALF = {"fp16", "float16", "half", "torch.float16"}


def _measure(case: Case) -> list[Observation]:
    observations: list[Observation] = []
    dtype = (case.run.manifest.dtype or "").lower()
    drops = [f for f in case.incident.findings if f.kind == "loss_scale_drop"]
    scale = case.series("loss_scale")
    counted = False
    if drops:
        first = drops[0]
        text = (
            f"the loss scale falls from {grouped(first.baseline)} to {grouped(first.peak)}, beginning at step "
            f"{first.onset_step}"
        )
        loss = case.departure("loss", sign=1)
        leads = loss is None or not loss.moved or first.onset_step <= loss.first_step
        slug = "numerics.scale_drop_first" if leads else "numerics.scale_drop"
        figures = {"before": first.baseline, "after": first.peak}
        observations.append(Observation(slug, text, "loss_scale", first.onset_step, figures))
    elif scale is not None and len(scale.window(*case.span)):
        text = "the loss scale does not fall"
        observations.append(Observation("numerics.scale_flat", text, "loss_scale", case.onset, moved=False))
    for column, label in (("skipped", "steps skipped"), ("nonfinite_count", "non-finite values in the gradients")):
        series = case.series(column)
        near = series.window(*case.span) if series is not None else None
        counted = counted or bool(near)
        if near is not None and (near.value > 0).any():
            step, total = int(near.step[near.value > 0][0]), float(near.value[near.value > 0].sum())
            slug = "numerics.skipped" if column == "skipped" else "numerics.nonfinite_gradient"
            text = f"{label}: {grouped(total)}, the first at step {step}"
            observations.append(Observation(slug, text, column, step, {"total": total}))
    if dtype:
        slug = "numerics.half" if dtype in HALF else "numerics.wide_range"
        reach = "ends at 65,504" if dtype in HALF else "represents magnitudes up to 3e38: no overflow at 65,504"
        observations.append(Observation(slug, f"{plain(dtype, 20)} {reach}", step=case.onset, moved=False))
    if counted and not observations:
        text = "no skipped step and no non-finite value"
        observations.append(Observation("numerics.finite", text, step=case.onset, moved=False))
    return observations


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
        "numerics.nonfinite_gradient",
        "numerics.half",
        "numerics.wide_range",
        "numerics.finite",
    ),
)
