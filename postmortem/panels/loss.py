"""Panel 1, the loss: what happened to it, how long it lasted, and whether any other column agrees."""

from __future__ import annotations

import math

import numpy as np

from postmortem.case import Case, Departure, Observation
from postmortem.panels import Panel
from postmortem.panels._measuring import (
    QUANTILES,
    departure_figures,
    departure_text,
    finite_departure,
    token_share_of_rise,
)
from postmortem.text import count, number

# Columns that a real change of the loss moves in the same row or the next; other code than that of the loss computes
# them.
WITNESSES = (
    "grad_norm",
    "update_rms",
    "param_norm",
    "adam_m_norm",
    "max_output_logit",
)
DROP_ROWS = 60  # how far after the onset a drop is searched: a stuck loader lowers the loss for tens of steps


def _measure(case: Case) -> list[Observation]:
    series = case.series("loss")
    if series is None:
        return []
    broken = series.window(case.onset, case.span[1])
    if case.incident.suspected:
        zero = any("zeros" in f.figures for f in case.incident.findings)
        value = "exactly 0 (some loggers write NaN so)" if zero else "blank"
        text = (
            f"the loss is {value} from step {case.onset} on while the run continues: suspected non-finite, not proven"
        )
        return [Observation("loss.suspected_nonfinite", text, "loss", case.onset)]
    if len(broken) and not np.isfinite(broken.value).all():
        return [_nonfinite(case)]
    observations: list[Observation] = []
    up, down = case.departure("loss", sign=1), _drop(case)
    if up is None:
        return []
    if case.loss_moved() and up.z > 0:
        observations += _rise(case, up)
    elif not (down and down.moved):
        text = f"did not move: {departure_text(up)}"
        observations.append(Observation("loss.flat", text, "loss", up.step, departure_figures(up), moved=False))
    if down and down.moved:
        text = f"the loss fell below its baseline: {departure_text(down)}"
        observations.append(Observation("loss.drop", text, "loss", down.step, departure_figures(down)))
    return observations


def _nonfinite(case: Case) -> Observation:
    series = case.series("loss")
    assert series is not None
    bad = ~np.isfinite(series.value) & (series.step >= case.onset)
    first = int(series.step[bad][0])
    after = series.step >= first
    stays = bool(bad[after].all())
    rows = int(bad.sum())
    figures = {"first_step": first, "rows": rows}
    text = f"the loss is non-finite from step {first} " + (
        "to the last row" if stays else f"on, in {count(rows, 'row')}, then finite again"
    )
    if stays and not np.isfinite(series.value[series.step < first]).any():
        return Observation("loss.never_finite", "the loss is non-finite in every row", "loss", first, figures)
    return Observation("loss.stays_nonfinite" if stays else "loss.nonfinite", text, "loss", first, figures)


def _rise(case: Case, up: Departure) -> list[Observation]:
    observations = [Observation("loss.spike", departure_text(up), "loss", up.step, departure_figures(up))]
    series = case.series("loss")
    assert series is not None
    if case.incident.outcome in ("lingering", "diverged"):
        settled = next(
            (f.settled for f in case.incident.findings if f.column == "loss" and f.settled is not None), None
        )
        level = "" if settled is None or case.incident.recovery_step is None else f", and settles at {number(settled)}"
        text = f"the loss does not return to its old level of {number(up.baseline)}{level}: {case.incident.outcome}"
        slug = "loss.stays_up" if case.incident.outcome == "lingering" else "loss.diverges"
        observations.append(Observation(slug, text, "loss", case.incident.recovery_step or up.step))
    peers = [i for i in case.incidents if i is not case.incident and any(f.column == "loss" for f in i.findings)]
    if len(peers) >= 2:
        text = f"the loss departs repeatedly: {count(len(peers) + 1, 'incident')} of the loss in this run"
        observations.append(Observation("loss.recurring", text, "loss", case.onset, {"incidents": len(peers) + 1}))
    vocabulary = case.run.manifest.vocab_size
    if vocabulary:
        uniform = math.log(vocabulary)
        figures = {"ln_vocab": uniform, "value": up.value}
        if up.baseline < 0.8 * uniform <= 0.9 * uniform <= up.value:
            text = f"the loss peaks at {number(up.value)}, about ln V = {number(uniform)}: the tokens are unpredictable"
            observations.append(Observation("loss.near_uniform", text, "loss", up.step, figures))
        elif up.value < 0.75 * uniform:
            text = f"the loss peaks at {number(up.value)}, well below ln V = {number(uniform)}"
            observations.append(Observation("loss.below_uniform", text, "loss", up.step, figures, moved=False))
    values = series.window(up.step, up.step + 6 * case.row_step).value
    if values.size >= 3 and (values[1:] < up.baseline + 0.25 * (up.value - up.baseline)).all():
        text = "the loss is abnormal in one row only; the next one is normal"
        observations.append(Observation("loss.one_row", text, "loss", up.step))
    witnesses = {name: d.moved for name in WITNESSES if (d := case.departure(name)) is not None}
    share = token_share_of_rise(case)
    if share is not None:
        at_onset = [case.departure(name, (case.onset, case.onset + 1)) for name in QUANTILES]
        witnesses["token_loss_*"] = share[0] >= 0.3 or any(d is not None and d.moved for d in at_onset)
    other_findings = any(f.column != "loss" for f in case.incident.findings)
    if len(witnesses) >= 2 and not other_findings and not any(witnesses.values()):
        text = f"the loss departs, but no other logged column does: {', '.join(witnesses)} did not move"
        # The token quantiles are the same loss, computed elsewhere; the other columns could miss a harmless batch.
        strength = 1.0 if share is not None else 0.6
        figures = {"witnesses": len(witnesses)}
        observations.append(Observation("loss.alone", text, "loss", up.step, figures, strength))
    return observations


def _drop(case: Case) -> Departure | None:
    return finite_departure(case, "loss", (case.onset, case.onset + DROP_ROWS * case.row_step), sign=-1)


PANEL = Panel(
    1,
    "loss",
    "Loss",
    ("loss", "eval_loss"),
    _measure,
    "how large the incident was, how long it lasted and whether a level shift remained: log the loss at each step",
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
        "loss.eval_nonfinite",
    ),
    nonfinite="loss.eval_nonfinite",
)
