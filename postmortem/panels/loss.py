"""Panel 1, the loss: what happened to it, how long it lasted, and whether any other column agrees."""

from __future__ import annotations

import math

import numpy as np

from postmortem.case import Case, Departure, Observation
from postmortem.detectors import RECOVERED
from postmortem.panels import Panel
from postmortem.panels._loss_level import level_changes
from postmortem.panels._measuring import (
    QUANTILES,
    departure_figures,
    departure_text,
    furthest,
    loss_drop,
    loss_rise,
    old_level_text,
    token_share_of_rise,
    unclear,
    unclear_text,
)
from postmortem.series import Series
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
CALM_RATIO = 1.5  # of an evaluation loss to its level before: from here on it is not called calm
NORMAL_SHARE = 0.25  # of the height of a spike: a row below it is normal beside it


def _measure(case: Case) -> list[Observation]:
    return [*_train_loss(case), *level_changes(case), *_eval_loss(case)]


def _train_loss(case: Case) -> list[Observation]:
    series = case.series("loss")
    if series is None:
        return []
    suspected = next((f for f in case.incident.findings if f.suspected), None)
    if case.incident.suspected and suspected is not None:
        value = "exactly 0 (some loggers write NaN so)" if "zeros" in suspected.figures else "blank"
        step = suspected.onset_step
        text = f"the loss is {value} from step {step} on while the run continues: suspected non-finite, not proven"
        return [Observation("loss.suspected_nonfinite", text, "loss", step)]
    broken = series.window(case.onset, case.span[1])
    if len(broken) and not np.isfinite(broken.value).all():
        return [_nonfinite(case)]
    observations: list[Observation] = []
    up, down = loss_rise(case), loss_drop(case)
    if up is None:
        return _of_few_rows(case)
    if case.loss_moved() and up.z > 0:
        observations += _rise(case, up)
    elif not (down and down.moved):
        observations.append(_unmoved(up, down))
    if down and down.moved:
        text = f"the loss fell below its baseline: {departure_text(down)}"
        observations.append(Observation("loss.drop", text, "loss", down.step, departure_figures(down)))
    return observations


def _of_few_rows(case: Case) -> list[Observation]:
    """What an incident of the loss did that too few rows precede for a baseline."""
    level, peak = case.before(), furthest(case)
    if case.primary.column != "loss" or level is None or peak is None:
        return []
    step, value = peak
    text = f"loss {number(value)} at step {step}, {number(level.value)} before the onset: too few rows for a baseline"
    return [Observation("loss.few_rows", text, "loss", step, {"value": value, "baseline": level.value})]


def _unmoved(up: Departure, down: Departure | None) -> Observation:
    """That no finding is on the loss, and whether it was flat."""
    if up.moved:
        text = f"raised, but too little or too briefly for an incident of its own: {departure_text(up)}"
        return Observation("loss.raised", text, "loss", up.step, departure_figures(up))
    if (large := unclear(up, down)) is not None:
        return Observation("loss.unclear", unclear_text(large), "loss", large.step, departure_figures(large))
    return Observation(
        "loss.flat", f"did not move: {departure_text(up)}", "loss", up.step, departure_figures(up), moved=False
    )


def _eval_loss(case: Case) -> list[Observation]:
    """Whether the evaluation loss rose: alone, or with the train loss."""
    up = loss_rise(case, "eval_loss")
    if up is None:
        return []
    if up.moved or (up.z > 0 and case.primary.column == "eval_loss"):
        slug, train = "loss.eval_follows" if case.loss_moved() else "loss.eval_rise", case.departure("loss")
        calm = ", while the loss did not move" if train is not None and train.flat and not case.loss_moved() else ""
        return [Observation(slug, f"{departure_text(up)}{calm}", "eval_loss", up.step, departure_figures(up))]
    if not up.flat or up.ratio >= CALM_RATIO:
        return []
    text = f"eval_loss did not move: {departure_text(up)}"
    return [Observation("loss.eval_calm", text, "eval_loss", up.step, departure_figures(up), moved=False)]


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
        text = (
            f"the loss does not return to its old level{old_level_text(case, settled)}{level}: {case.incident.outcome}"
        )
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
    if _one_row(case, series, up):
        text = "the loss is abnormal in one row only; the next one is normal"
        observations.append(Observation("loss.one_row", text, "loss", up.step))
    witnesses = {name: not d.flat for name in WITNESSES if (d := case.departure(name)) is not None}
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


def _one_row(case: Case, series: Series, up: Departure) -> bool:
    """Whether the loss is settled again in the row after the peak, and stays so in the next few."""
    after = series.step > up.step
    step, value = series.step[after][:5], series.value[after][:5]
    settled = {f.recovery_step for f in case.incident.findings if f.column == "loss"}
    normal = value < up.baseline + NORMAL_SHARE * (up.value - up.baseline)
    return case.incident.outcome == RECOVERED and step.size >= 2 and int(step[0]) in settled and bool(normal.all())


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
        "loss.unclear",
        "loss.raised",
        "loss.few_rows",
        "loss.drop",
        "loss.falls_for_good",
        "loss.reduction_changed",
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
        "loss.eval_rise",
        "loss.eval_follows",
        "loss.eval_calm",
        "loss.eval_nonfinite",
    ),
    nonfinite="loss.eval_nonfinite",
)
