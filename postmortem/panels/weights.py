"""Panel 5, weights and updates: whether a parameter moved further than an update can move it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from postmortem.case import BASELINE_ROWS, Case, Observation
from postmortem.panels import Panel
from postmortem.panels._measuring import (
    column_names,
    departure_figures,
    departure_text,
    finite_departure,
    first_nonfinite,
    growth_before,
    resume_steps,
    unclear_text,
)
from postmortem.series import Series
from postmortem.stats import median
from postmortem.text import count, number, plain, times

# RMS ÷ lr; Adam's own bound is (1−β1)/√(1−β2) = 3.16 at β2 = 0.999, and 10 leaves room for other betas.
LARGEST_UPDATE = 10.0
BETA1, BETA2 = 0.9, (0.999, 0.95)  # the usual ones
ADAM_WITHIN = 0.1  # of the logarithm: rows of an embedding without gradient, and weight decay, move it by so much
LEAD_ROWS = 20  # before the onset in which an update is searched that led to a non-finite value
LARGER = 2.0  # such an update is this many times the largest of the rows before
# An update that is parallel to the weights changes their norm by its own size, and one that is orthogonal hardly does.
# Usual ones are nearly orthogonal: their share of a hundredth or so may become all of it, and no more.
ALIGNED = 100.0
ADAM_COLUMNS = ("adam_m_norm", "adam_v_norm", "g2_over_v")
USUAL_UPDATE = 0.2  # of Adam, where no update is logged: 0.2 to 0.5 is common
HUGE = 1e6  # times its usual size: an activation that no update and no batch makes so large in one step
LARGE_SHARE, FEWEST_LARGE_STEPS = 0.1, 3  # a hundred times the common share of 0.001 per step, in so many rows
UNSEEN = 0.7  # strength of what no logged gradient explains where steps in between were not logged
JUST_BEFORE = 5  # rows whose changes a jump must exceed, too
JUMP = 6.0  # an ordinary update never changes the norm by this many times the largest change before


def _measure(case: Case) -> list[Observation]:
    names = [n for n in ("param_norm", *case.family("param_norm/")) if n in case.run.columns]
    broken = [(n, step) for n in names if (step := first_nonfinite(case, n)) is not None]
    if broken:
        column, step = min(broken, key=lambda b: b[1])
        return [_broken(case, column, step), *_between_steps(case, names, step), *_before_nonfinite(case)]
    observations: list[Observation] = []
    jumps = sorted(
        filter(None, (_jump(case, n) for n in names)), key=lambda j: (j.step or 0, -float(j.figures["ratio"] or 0))
    )
    if jumps:
        observations.append(jumps[0])
    elif names and case.baseline(names[0]) is not None:
        text = f"no norm changes more than before: {column_names(names)}"
        observations.append(Observation("weights.smooth", text, names[0], case.onset, moved=False))
    observations += [*_large_steps(case), *_growing(case), *_without_moments(case), *_other_moments(case)]
    return [*observations, *(_before_nonfinite(case) or _update(case))]


def _broken(case: Case, column: str, step: int) -> Observation:
    """That a parameter norm is not finite from `step` on, and whether loss and gradient of that step still were."""
    loss = case.series("loss")
    value = loss.at(step) if loss else None
    finite_loss = value is not None and bool(np.isfinite(value))
    gradient = case.series("grad_norm")
    norm = gradient.at(step) if gradient else None
    text = f"{plain(column)} is non-finite after the update of step {step}" + (
        ", whose loss was still finite" if finite_loss else ""
    )
    if finite_loss and norm is not None and np.isfinite(norm):
        text += f" and whose gradient norm was {number(norm)}"
        return Observation("weights.nonfinite_unprovoked", text, column, step, {"grad_norm": norm})
    return Observation("weights.nonfinite_first" if finite_loss else "weights.nonfinite", text, column, step)


def _between_steps(case: Case, norms: list[str], step: int) -> Iterator[Observation]:
    """Whether the forward pass of `step` met parameters that the update before it did not leave: their norms and the
    activations were as usual, and now these are a million times as large. No batch does that to embeddings or to
    normalized inputs. Infinite ones are as large as that where the dtype is not a half, which ends at 65,504."""
    acts = (*case.family("act_max/"), *case.family("act_rms/"))
    before = [d for name in (*norms, *acts) if (d := case.departure(name, (step - 1, step))) is not None]
    if not {d.column for d in before} & {*norms} or any(d.moved for d in before):
        return
    now = [d for name in acts if (d := case.departure(name, (step, step + 1))) is not None]
    dtype = (case.run.manifest.dtype or "fp16").lower()
    half = "16" in dtype and "b" not in dtype
    huge = [d for d in now if d.ratio >= HUGE and (math.isfinite(d.value) or not half)]
    if huge:
        d = max(huge, key=lambda departure: departure.ratio)
        text = (
            f"{departure_text(d)}, in the forward pass of a step before which {column_names(norms)} did not move: a "
            f"parameter changed between two steps"
        )
        figures = {"value": d.value, "ratio": d.ratio} if math.isfinite(d.value) else {}
        yield Observation("weights.changed_between", text, norms[0], step, {"baseline": d.baseline, **figures})


def _update(case: Case) -> list[Observation]:
    update = finite_departure(case, "update_rms")
    if update is None:
        return []
    large, small = update.moved and update.ratio >= 1.4, update.moved and update.ratio <= 0.7
    if not update.moved and not update.flat:
        text, figures = unclear_text(update), departure_figures(update)
        return [Observation("update.unclear", text, "update_rms", update.step, figures)]
    slug = "update.large" if large else "update.small" if small else "update.flat"
    text, figures = departure_text(update), departure_figures(update)
    return [Observation(slug, text, "update_rms", update.step, figures, moved=large or small)]


def _large_steps(case: Case) -> Iterator[Observation]:
    """Whether single steps change the norm of all parameters by a large share, again and again.

    One such change may be anything; a training whose steps do that has steps that are too long.
    """
    series = case.series("param_norm")
    if series is None:
        return
    rows = series.window(case.onset - case.row_step, case.span[1])
    step, value = rows.step, rows.value
    if len(rows) < 2 or not (np.isfinite(value) & (value > 0)).all():
        return
    share = np.abs(np.diff(value)) / value[:-1] / np.diff(step)
    large = share >= LARGE_SHARE
    if large.sum() >= FEWEST_LARGE_STEPS:
        least, at = f"{100 * LARGE_SHARE:.0f} %", int(step[1:][large][0])
        text = f"param_norm changes by more than {least} per step in {int(large.sum())} rows, first at step {at}"
        figures = {"rows": int(large.sum()), "largest_share": float(share.max())}
        yield Observation("weights.large_steps", text, "param_norm", at, figures)


def _growing(case: Case) -> Iterator[Observation]:
    """Whether the updates grow in the rows before the onset."""
    if (levels := growth_before(case, "update_rms")) is not None:
        text = f"update_rms grows before the onset, from {number(levels[0])} to {number(levels[1])}"
        figures = {"before": levels[0], "at_onset": levels[1]}
        yield Observation("update.grows", text, "update_rms", case.onset, figures)


def _without_moments(case: Case) -> Iterator[Observation]:
    """Whether the first update after a resume has the size that Adam's has without its moments or its step count, in a
    log that has neither.

    With m = v = 0 and the step at 0, m̂ / √v̂ = g / |g|: each weight moves by lr. With m = v = 0 and the old step, it
    moves by (1 − β1) / √(1 − β2). With old moments and the step at 0, bias correction divides by the inverse of that.
    """
    moments = ("adam_m_norm", "adam_v_norm", "optimizer_step")
    if case.resume is None or any(case.series(name) is not None for name in moments):
        return
    first = case.departure("update_rms", (case.resume, case.resume + 1))
    if first is None or not first.moved or not first.value > 0:
        return
    value, level = first.value, first.baseline
    for beta2 in BETA2:
        zeroed = (1 - BETA1) / math.sqrt(1 - beta2)
        sizes = (
            (1.0, 1.0, "moments and step at 0"),
            (zeroed, zeroed, f"moments at 0 at β2 = {beta2}"),
            (level / zeroed, 1 / zeroed, f"the step at 0 at β2 = {beta2}"),
        )
        for expected, factor, state in sizes:
            if abs(math.log(value / expected)) <= ADAM_WITHIN:
                text = (
                    f"the first update after the resume has update_rms {number(value)}, baseline {number(level)}: "
                    f"that of Adam with {state}"
                )
                figures = {"value": value, "baseline": level, "expected": expected, "factor": factor, "beta2": beta2}
                yield Observation("update.without_moments", text, "update_rms", case.resume, figures)
                return


def _other_moments(case: Case) -> Iterator[Observation]:
    """That the first update after a resume departs: the rate is divided out, and moments are what is left."""
    norm = case.series("grad_norm")
    for f in case.incident.findings:
        if f.detector == "update_at_resume":
            logged = norm is not None and norm.at(f.onset_step) is not None
            text = (
                f"update_rms, from which the rate is divided out, goes from {number(f.baseline)} to {number(f.peak)} "
                f"at step {f.onset_step}, the first row after the resume"
                + (", and grad_norm does not explain it: other moments made the update" if logged else "")
            )
            # Without a gradient norm, another gradient may have made it as well.
            strength, figures = 1.0 if logged else 0.5, dict(f.figures)
            yield Observation("moments.other_update", text, f.column, f.onset_step, figures, strength)


def _before_nonfinite(case: Case) -> list[Observation]:
    """The first update before a non-finite value that is larger than all before: where the damage was done.

    The update may come some rows before the first NaN, and so before the onset.
    """
    series = case.series("update_rms")
    steps = [f.onset_step for f in case.incident.findings if f.role == "fatal" and not f.suspected]
    if series is None or not steps:
        return []
    since = case.onset - LEAD_ROWS * case.row_step
    usual, rows = series.window(case.baseline_start, since).value, series.window(since, min(steps) + 1)
    usual = usual[np.isfinite(usual)]
    large = rows.value > LARGER * usual.max() if usual.size >= BASELINE_ROWS // 4 else np.zeros(len(rows), bool)
    if not large.any():
        return []
    step, value = int(rows.step[large][0]), float(rows.value[large][0])
    level = float(median(usual))
    lead = min(steps) - step
    before = f"{count(lead, 'step')} before the first non-finite value" if lead else "where values become non-finite"
    jump = f"update_rms jumps to {number(value)} at step {step}, baseline {number(level)} ({times(value / level)})"
    text = f"{jump}, {before}"
    figures = {"value": value, "baseline": level, "lead_steps": lead}
    return [Observation("update.before_nonfinite", text, "update_rms", step, figures)]


def _jump(case: Case, name: str) -> Observation | None:
    """A change of a norm from one row to the next that exceeds every change in the baseline and in the rows just before
    it, and whether a gradient explains it.

    Rows need not be evenly spaced: a row after a longer gap may have moved further. Changes that grow from row to row
    are those of a training whose updates grow, and no jump.
    """
    series = case.series(name)
    if series is None:
        return None
    near = series.window(case.baseline_start, case.span[1])
    steps_between = np.diff(near.step)
    change = Series(name, near.step[1:], np.abs(np.diff(near.value)))
    before, inside = change.window(0, case.span[0]), change.window(*case.span)
    if len(before) < BASELINE_ROWS // 4 or not len(inside):
        return None
    first = int(np.searchsorted(change.step, inside.step[0]))
    per_step = change.value / steps_between
    just_before = sliding_window_view(per_step, JUST_BEFORE).max(axis=1)[first - JUST_BEFORE :][: len(inside)]
    most = np.maximum(float(per_step[: len(before)].max()), just_before)
    usual = np.maximum(float(before.value.max()), most * steps_between[first : first + len(inside)])
    worst = int(np.argmax(inside.value / np.maximum(usual, 1e-300)))
    if not inside.value[worst] > JUMP * max(usual[worst], 1e-6 * float(np.abs(near.value).max())):
        return None
    step = int(inside.step[worst])
    last_before = int(near.step[first + worst])
    figures = {
        "change": float(inside.value[worst]),
        "largest_before": float(usual[worst]),
        "ratio": float(inside.value[worst] / max(usual[worst], 1e-300)),
    }
    one_step = step == last_before + 1
    steps, unit = (f"step {step}", "per step") if one_step else (f"steps {last_before + 1} to {step}", "per row")
    text = (
        f"{plain(name)} moves by {number(figures['change'])} in {steps}, but at most "
        f"{number(figures['largest_before'])} {unit} before ({times(figures['ratio'])})"
    )
    window = (last_before + 1, step + 1)
    resumed = resume_steps(case)
    resumed = resumed[(resumed >= window[0]) & (resumed < window[1])]
    if resumed.size:
        text += f"; the run was resumed at step {resumed[-1]}, so that these may be the weights of another checkpoint"
        return Observation("weights.changed_at_resume", text, name, step, figures)
    those = "that step" if one_step else "these steps"
    possible = _possible(case, window)
    if possible is not None and figures["ratio"] > ALIGNED * possible:
        text += f"; the updates of {those} are at most {times(possible)} as large as before"
        return Observation("weights.unprovoked_jump", text, name, step, {**figures, "possible": possible})
    explained = _explained(case, window)
    if not explained and (others := _groups_that_jump(case, name, window)):
        explained = True
        text += f"; {plain(others[0])} jumps in {those}, too, as in an update of all parameters"
    if explained:
        return Observation("weights.jump", text, name, step, figures)
    if case.departure("grad_norm", window) is None:
        return Observation("weights.jump_alone", f"{text}; no gradient of {those} is logged", name, step, figures)
    unmoved = "neither grad_norm nor lr" if case.departure("lr", window) is not None else "grad_norm"
    text += f"; {unmoved} of {those} {'explains' if ' ' in unmoved else 'does not explain'} it"
    strength = 1.0 if one_step else UNSEEN
    return Observation("weights.unprovoked_jump", text, name, step, figures, strength)


def _groups_that_jump(case: Case, name: str, window: tuple[int, int]) -> list[str]:
    """The other groups of parameters whose norm moves in `window` as no step of theirs did before. One damaged element
    is in a single group, which moves the norm of all parameters along, but no other."""
    groups: list[str] = []
    for group in case.family("param_norm/"):
        series = case.series(group)
        near = None if series is None else series.window(case.baseline_start, window[1])
        if group == name or near is None or len(near) < BASELINE_ROWS // 4:
            continue
        per_step, inside = np.abs(np.diff(near.value)) / np.diff(near.step), near.step[1:] >= window[0]
        if inside.any() and per_step[inside].max() > JUMP * max(per_step[~inside].max(initial=0.0), 1e-300):
            groups.append(group)
    return groups if len(groups) > (name == "param_norm") else []


def _possible(case: Case, window: tuple[int, int]) -> float | None:
    """How many times as far as before the updates of the steps in `window` can have moved the parameters at most; None
    where no column bounds them.

    A step moves the parameters by lr × update_rms × √n. Adam's update has a bound of its own; a clipped gradient has
    one, too, and without Adam's division the update is in proportion to it.
    """
    bounds = [growth for name in ("update_rms", "grad_norm_clipped") if (growth := _growth(case, name, window))]
    clip, usual = case.level("clip_threshold"), case.level("grad_norm")
    if clip is not None and usual is not None and 0 < clip < math.inf and usual > 0:
        bounds.append(clip / min(clip, usual))
    if any(case.series(name) is not None for name in ADAM_COLUMNS):
        bounds.append(LARGEST_UPDATE / (case.level("update_rms") or USUAL_UPDATE))
    rate = _growth(case, "lr", window) or 1.0
    return max(min(bounds), 1.0) * rate if bounds else None


def _growth(case: Case, name: str, window: tuple[int, int]) -> float | None:
    """The largest value of a positive column in `window` as a multiple of its usual one, and at least 1; None where it
    is not a finite number at each step."""
    series, usual = case.series(name), case.level(name)
    inside = np.empty(0) if series is None else series.window(*window).value
    every = inside.size == window[1] - window[0] and bool(np.isfinite(inside).all())
    return max(float(inside.max()) / usual, 1.0) if every and usual is not None and usual > 0 else None


def _explained(case: Case, window: tuple[int, int]) -> bool:
    """Whether the gradient or lr of a step in `window` was unusual, or an update grew no more than Adam's can.

    A larger update is no explanation: it is the difference of the same parameters, the bit flip included. Nor is a
    gradient that is not finite, as the parameters would not be, either.
    """
    grown = [d for name in ("grad_norm", "lr") if (d := case.departure(name, window, sign=1)) is not None and d.moved]
    update = case.departure("update_rms", window, sign=1)
    possible = update is not None and update.moved and update.value <= LARGEST_UPDATE
    return possible or any(math.isfinite(d.value) and not d.ratio <= 1.5 for d in grown)


PANEL = Panel(
    5,
    "weights",
    "Weights and updates",
    ("param_norm", "update_rms", "param_norm/*"),
    _measure,
    (
        "whether a parameter moved further than its update (a bit flip), and whether updates grew: log "
        "param_norm and update_rms"
    ),
    log_scale=True,
    observes=(
        "moments.other_update",
        "weights.nonfinite_unprovoked",
        "weights.nonfinite_first",
        "weights.nonfinite",
        "weights.smooth",
        "update.large",
        "update.small",
        "update.flat",
        "update.unclear",
        "weights.jump",
        "weights.unprovoked_jump",
        "weights.jump_alone",
        "weights.changed_at_resume",
        "weights.large_steps",
        "weights.changed_between",
        "update.grows",
        "update.without_moments",
        "update.before_nonfinite",
        "update.nonfinite",
    ),
    nonfinite="update.nonfinite",
)
