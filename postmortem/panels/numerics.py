"""Panel 9, numerics: loss scale, skipped steps, non-finite values, and what the dtype can hold."""

from __future__ import annotations

from postmortem.case import Case, Observation
from postmortem.panels import Panel
from postmortem.text import number, plain

HALF = {"fp16", "float16", "half", "torch.float16"}


def _measure(case: Case) -> list[Observation]:
    seen: list[Observation] = []
    dtype = (case.run.manifest.dtype or "").lower()
    drops = [f for f in case.incident.findings if f.kind == "loss_scale_drop"]
    scale = case.series("loss_scale")
    counted = False
    if drops:
        first = drops[0]
        text = (
            f"the loss scale falls from {number(first.baseline)} to {number(first.peak)} from step {first.onset_step}"
        )
        loss = case.departure("loss", sign=1)
        leads = loss is None or not loss.moved or first.onset_step <= loss.first_step
        slug = "numerics.scale_drop_first" if leads else "numerics.scale_drop"
        seen.append(
            Observation(slug, text, "loss_scale", first.onset_step, {"before": first.baseline, "after": first.peak})
        )
    elif scale is not None and len(scale.window(*case.span)):
        seen.append(Observation("numerics.scale_flat", "the loss scale holds", "loss_scale", case.onset, moved=False))
    for column, what in (("skipped", "steps skipped"), ("nonfinite_count", "non-finite values in the gradients")):
        series = case.series(column)
        bad = series.window(*case.span) if series is not None else None
        counted = counted or bool(bad)
        if bad is not None and (bad.value > 0).any():
            step, total = int(bad.step[bad.value > 0][0]), float(bad.value[bad.value > 0].sum())
            slug = "numerics.skipped" if column == "skipped" else "numerics.nonfinite_gradient"
            seen.append(
                Observation(slug, f"{what}: {number(total)}, the first at step {step}", column, step, {"total": total})
            )
    if dtype:
        slug = "numerics.half" if dtype in HALF else "numerics.wide_range"
        reach = "ends at 65,504" if dtype in HALF else "holds magnitudes up to 3e38: no overflow at 65,504"
        seen.append(Observation(slug, f"{plain(dtype, 20)} {reach}", step=case.onset, moved=False))
    if counted and not seen:
        text = "no step was skipped, and nothing non-finite was counted"
        seen.append(Observation("numerics.finite", text, step=case.onset, moved=False))
    return seen


PANEL = Panel(
    9,
    "numerics",
    "Numerics",
    ("loss_scale", "skipped", "nonfinite_count"),
    _measure,
    "whether half precision overflowed: log loss_scale and skipped steps, and put the dtype into run.json",
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
