"""Panel 1, the loss: what happened to it, for how long, and whether anything else agrees."""

from __future__ import annotations

import math

import numpy as np

from postmortem.case import Case, Departure, Observation
from postmortem.panels import Panel
from postmortem.panels._measuring import QUANTILES, compared, figures, token_share_of_rise
from postmortem.text import number

# What a real change of the loss moves in the same row or the next: computed by other code than the loss itself.
WITNESSES = (
    "grad_norm",
    "update_rms",
    "param_norm",
    "adam_m_norm",
    "max_output_logit",
)
LOOK_BACK_ROWS = 60  # how far before the onset a drop is searched: a stuck loader lowers the loss for tens of steps


def _measure(case: Case) -> list[Observation]:
    series = case.series("loss")
    if series is None:
        return []
    broken = series.window(case.onset, case.span[1])
    if case.incident.suspected:
        zero = any("zeros" in f.figures for f in case.incident.findings)
        how = "exactly 0, as some loggers write NaN," if zero else "blank"
        text = f"the loss is {how} from step {case.onset} on while steps go on: suspected non-finite, not proven"
        return [Observation("loss.suspected_nonfinite", text, "loss", case.onset)]
    if len(broken) and not np.isfinite(broken.value).all():
        return [_nonfinite(case)]
    seen: list[Observation] = []
    up, down = case.departure("loss", sign=1), _drop(case)
    if up is None:
        return []
    if case.loss_moved() and up.z > 0:
        seen += _rise(case, up)
    elif not (down and down.moved):
        seen.append(
            Observation(
                "loss.flat", f"the loss did not move: {compared(up)}", "loss", up.step, figures(up), moved=False
            )
        )
    if down and down.moved:
        text = f"the loss fell below its baseline: {compared(down)}"
        seen.append(Observation("loss.drop", text, "loss", down.step, figures(down)))
    return seen


def _nonfinite(case: Case) -> Observation:
    series = case.series("loss")
    assert series is not None
    bad = ~np.isfinite(series.value) & (series.step >= case.onset)
    first = int(series.step[bad][0])
    after = series.step >= first
    stays = bool(bad[after].all())
    figure = {"first_step": first, "rows": int(bad.sum())}
    text = f"the loss is non-finite from step {first}" + (
        " to the last row" if stays else f" in {int(bad.sum())} rows, then finite again"
    )
    if stays and not np.isfinite(series.value[series.step < first]).any():
        return Observation("loss.never_finite", "the loss is non-finite in every row", "loss", first, figure)
    return Observation("loss.stays_nonfinite" if stays else "loss.nonfinite", text, "loss", first, figure)


def _rise(case: Case, up: Departure) -> list[Observation]:
    seen = [Observation("loss.spike", f"loss {compared(up)}", "loss", up.step, figures(up))]
    series = case.series("loss")
    assert series is not None
    if case.incident.outcome in ("lingering", "diverged"):
        text = f"the loss does not come back: {case.incident.outcome}"
        slug = "loss.stays_up" if case.incident.outcome == "lingering" else "loss.diverges"
        seen.append(Observation(slug, text, "loss", case.incident.recovery_step or up.step))
    peers = [i for i in case.incidents if i is not case.incident and any(f.column == "loss" for f in i.findings)]
    if len(peers) >= 2:
        text = f"the loss departs again and again: {len(peers) + 1} incidents on it in this run"
        seen.append(Observation("loss.recurring", text, "loss", case.onset, {"incidents": len(peers) + 1}))
    vocabulary = case.run.manifest.vocab_size
    if vocabulary:
        uniform = math.log(vocabulary)
        if up.baseline < 0.8 * uniform <= 0.9 * uniform <= up.value:
            text = (
                f"the peak of {number(up.value)} is about ln V = {number(uniform)}: the tokens could not be "
                "predicted at all"
            )
            seen.append(
                Observation("loss.near_uniform", text, "loss", up.step, {"ln_vocab": uniform, "value": up.value})
            )
        elif up.value < 0.75 * uniform:
            text = f"the peak of {number(up.value)} stays well below ln V = {number(uniform)}"
            figure = {"ln_vocab": uniform, "value": up.value}
            seen.append(Observation("loss.below_uniform", text, "loss", up.step, figure, moved=False))
    above = series.window(up.step, up.step + 6 * case.row_step).value
    if above.size >= 3 and (above[1:] < up.baseline + 0.25 * (up.value - up.baseline)).all():
        seen.append(Observation("loss.one_row", "one row departs, the next is back", "loss", up.step))
    witnesses = {name: d.moved for name in WITNESSES if (d := case.departure(name)) is not None}
    share = token_share_of_rise(case)
    if share is not None:
        at_onset = [case.departure(name, (case.onset, case.onset + 1)) for name in QUANTILES]
        witnesses["token_loss_*"] = share[0] >= 0.3 or any(d is not None and d.moved for d in at_onset)
    others = any(f.column != "loss" for f in case.incident.findings)
    if len(witnesses) >= 2 and not others and not any(witnesses.values()):
        text = f"the loss departs and nothing else that was logged does: {', '.join(witnesses)} stay as they were"
        # The token quantiles are the same loss, summed up elsewhere; other columns could miss a harmless batch.
        sure = 1.0 if share is not None else 0.6
        seen.append(Observation("loss.alone", text, "loss", up.step, {"witnesses": len(witnesses)}, sure))
    return seen


def _drop(case: Case) -> Departure | None:
    return case.departure("loss", (case.onset, case.onset + LOOK_BACK_ROWS * case.row_step), sign=-1)


PANEL = Panel(
    1,
    "loss",
    "Loss",
    ("loss", "eval_loss"),
    _measure,
    "how large the incident was, how long it lasted and whether it left a level shift: log the training loss each step",
    unit="nats per token",
    observes=(
        "loss.suspected_nonfinite",
        "loss.flat",
        "loss.drop",
        "loss.never_finite",
        "loss.stays_nonfinite",
        "loss.nonfinite",
        "loss.spike",
        "loss.stays_up",
        "loss.diverges",
        "loss.recurring",
        "loss.near_uniform",
        "loss.below_uniform",
        "loss.one_row",
        "loss.alone",
    ),
)
