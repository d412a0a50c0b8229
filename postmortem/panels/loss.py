"""Panel 1, the loss: what happened to it, how long it lasted, and whether any other column agrees."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from postmortem.case import RESUME_ROWS, Case, Observation
from postmortem.departure import Departure
from postmortem.detectors import RECOVERED
from postmortem.panels import Panel
from postmortem.panels._loss_level import level_changes
from postmortem.panels._measuring import (
    departure_figures,
    departure_text,
    furthest,
    loss_drop,
    loss_rise,
    old_level_text,
    resume_steps,
    unclear,
    unclear_text,
)
from postmortem.panels._witnesses import unmoved_witnesses
from postmortem.series import Series
from postmortem.stats import median
from postmortem.text import count, number, times

CALM_RATIO = 1.5  # of an evaluation loss to its level before: from here on it is not called calm
ABOUT_UNIFORM = (0.9, 3.0)  # multiples of ln V that unpredictable tokens may cost
SURE_OF_ITSELF = 2.0  # a multiple of ln V beyond which few models are so sure that it is the tokens alone
WORSE = 1.05  # a multiple of ln V: a loss that stays above it is worse than guessing, whatever rounding there is
ROWS_FOR_GOOD = 10  # rows after the peak that show where the loss stays
FEWEST_RECURRENCES, FEWEST_GAPS = 3, 3  # incidents that are called recurring, and gaps that can show a period
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
    observation = Observation("loss.few_rows", text, "loss", step, {"value": value, "baseline": level.value})
    series = case.series("loss")
    return [observation, *(() if series is None or value <= level.value else _for_good(case, series, step))]


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
    observations += [*_for_good(case, series, up.step), *_recurrence(case), *_against_uniform(case, series, up)]
    if _one_row(case, series, up):
        text = "the loss is abnormal in one row only; the next one is normal"
        observations.append(Observation("loss.one_row", text, "loss", up.step))
    if not any(f.column != "loss" for f in case.incident.findings) and (alone := unmoved_witnesses(case, up)):
        observations.append(_alone(up, alone))
    return observations


def _recurrence(case: Case) -> Iterator[Observation]:
    """Whether the loss departs again and again, and what these incidents have in common: resumes, or a period.

    A period is one of the data (epochs, shards) or of the schedule, and shows at two of three of its turns at least.
    Three gaps at random are within a twentieth of multiples of their median in about 1 of 100 runs.
    """
    peers = [i for i in case.incidents if i.lineage == case.incident.lineage]
    onsets = np.array(sorted({i.onset_step for i in peers if any(f.column == "loss" for f in i.findings)}), np.int64)
    if onsets.size < FEWEST_RECURRENCES:
        return
    number_of = f"{onsets.size} incidents of the loss in this run"
    resumes = resume_steps(case)
    after = onsets - resumes[np.searchsorted(resumes, onsets, side="right") - 1] if resumes.size else onsets
    reach = (RESUME_ROWS + 1) * case.row_step
    resumed = int(((after >= 0) & (after < reach)).sum())
    chance = min(1.0, resumes.size * reach / max(int(onsets[-1] - case.run.row_steps[0]), 1))
    if resumed / onsets.size >= max(0.5, 2 * chance):
        text = f"the loss departs repeatedly, and {resumed} of {number_of} begin where it was resumed"
        yield Observation("loss.at_resumes", text, "loss", case.onset, {"incidents": onsets.size, "resumed": resumed})
        return
    period = float(median(np.diff(onsets)))
    gaps = np.diff(onsets) / period
    turns = np.rint(gaps)
    regular = (np.abs(gaps - turns) <= 0.05).all() and (turns >= 1).all() and onsets.size >= 2 / 3 * (turns.sum() + 1)
    if gaps.size >= FEWEST_GAPS and regular:
        text = f"the loss departs every {number(period)} steps: {number_of}, at multiples of that period"
        yield Observation("loss.periodic", text, "loss", case.onset, {"incidents": onsets.size, "period": period})
        return
    text = f"the loss departs repeatedly: {number_of}"
    yield Observation("loss.recurring", text, "loss", case.onset, {"incidents": onsets.size})


def _against_uniform(case: Case, series: Series, up: Departure) -> Iterator[Observation]:
    """How the loss of the incident compares with ln V, which a model pays that guesses.

    For uniformly random tokens, one that knows only how frequent they are pays ln V + ln ln V − 1 (Zipf's law), 1.13
    ln V at 50,000 tokens. One that is sure of itself pays more: 2 ln V where it leaves 1/V for all other tokens
    together, and 3 ln V where it leaves 1/V², which is hardly ever right.
    """
    if (uniform := _ln_vocab(case)) is None:
        return
    least, most = (share * uniform for share in ABOUT_UNIFORM)
    sudden = float(series.window(up.first_step, up.first_step + case.row_step + 1).value.max())
    figures = {"ln_vocab": uniform, "value": up.value}
    against = f"ln V = {number(uniform)}"
    if up.value < 0.75 * uniform:
        text = f"the loss peaks at {number(up.value)}, well below {against}"
        yield Observation("loss.below_uniform", text, "loss", up.step, figures, moved=False)
    elif up.baseline < 0.8 * uniform and least <= sudden <= most:
        text = f"the loss jumps to {number(sudden)}, {times(sudden / uniform)} {against}: the tokens are unpredictable"
        strength = 1.0 if sudden <= SURE_OF_ITSELF * uniform else 0.5
        yield Observation("loss.near_uniform", text, "loss", up.first_step, {**figures, "value": sudden}, strength)
    elif up.baseline < 0.8 * uniform and up.value > most:
        text = f"the loss peaks at {number(up.value)}, {times(up.value / uniform)} {against}: far worse than guessing"
        yield Observation("loss.above_uniform", text, "loss", up.step, figures)


def _for_good(case: Case, series: Series, peak: int) -> Iterator[Observation]:
    """Whether the loss does not return, and whether it then stays above ln V."""
    if case.incident.outcome in ("lingering", "diverged"):
        settled = next(
            (f.settled for f in case.incident.findings if f.column == "loss" and f.settled is not None), None
        )
        level = "" if settled is None or case.incident.recovery_step is None else f", and settles at {number(settled)}"
        text = (
            f"the loss does not return to its old level{old_level_text(case, settled)}{level}: {case.incident.outcome}"
        )
        slug = "loss.stays_up" if case.incident.outcome == "lingering" else "loss.diverges"
        yield Observation(slug, text, "loss", case.incident.recovery_step or peak)
    later, uniform = series.window(peak + case.row_step, int(series.step[-1]) + 1).value, _ln_vocab(case)
    if uniform is None or later.size < ROWS_FOR_GOOD or not np.isfinite(later).all():
        return
    last = float(median(later[-ROWS_FOR_GOOD:]))
    if min(last, float(median(later))) > WORSE * uniform:
        text = f"the loss stays above ln V = {number(uniform)}, at {number(last)} in the last rows: worse than guessing"
        yield Observation("loss.stays_above_uniform", text, "loss", peak, {"ln_vocab": uniform, "value": last})


def _ln_vocab(case: Case) -> float | None:
    """ln V, in nats; None where the run does not say V."""
    vocabulary = case.run.manifest.vocab_size
    return math.log(vocabulary) if vocabulary and vocabulary > 1 else None


def _alone(up: Departure, witnesses: tuple[str, ...]) -> Observation:
    """That the loss departs, and what follows it at other times does not.

    The token quantiles are the same loss, computed elsewhere: with another column, they settle it. Alone they may share
    a fault with it; and the other columns could miss a harmless batch, so that without the quantiles nothing is sure.
    """
    tokens, others = "token_loss_*" in witnesses, len(witnesses) - ("token_loss_*" in witnesses)
    strength = (1.0 if others else 0.7) if tokens else 0.3
    verb = "follows" if len(witnesses) == 1 else "follow"
    text = f"the loss departs, and {', '.join(witnesses)}, which {verb} it in the rows before, did not move"
    return Observation("loss.alone", text, "loss", up.step, {"witnesses": len(witnesses)}, strength)


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
        "loss.at_resumes",
        "loss.periodic",
        "loss.near_uniform",
        "loss.above_uniform",
        "loss.stays_above_uniform",
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
