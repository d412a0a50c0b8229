"""Writes sentences for an incident whose cause is unknown: why it is unknown, what to do next, and what to watch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from postmortem.assess.symptoms import lost_as, rows_lost
from postmortem.assess.weighing import backed_causes
from postmortem.case import Case
from postmortem.causes import Cause, lower_rate, roll_back, skip
from postmortem.change import Change
from postmortem.detectors import SETTLE_ROWS
from postmortem.diagnosis import Hypothesis, Remedy
from postmortem.interventions import build_intervention
from postmortem.panels import furthest
from postmortem.stats import noise_sigma
from postmortem.text import count, listed, number, plain

PASSED_OVER = 3  # checkpoints whose state is told
CLOSE = 0.5  # a rival with at least this share of the best cause's probability is named as well
DECISIVE = ("grad_norm", "lr", "batch_hash", "token_loss_p50", "param_norm", "adam_v_norm", "update_rms")


def why_not_known(case: Case, ranked: Sequence[Hypothesis], proof: str = "") -> str:
    """Why no root cause is given: what replays showed (`proof`), or which replay or column would decide."""
    if proof:
        return f"Not known: {proof}."
    by_slug = {c.slug: c for c in backed_causes(ranked)}
    known = [h for h in ranked if h.cause in by_slug]
    if not known:
        if any(h.supported_by for h in ranked):
            return "Not known yet: no known cause has more for it than against it."
        return "Not known yet: no observation speaks for a known cause."
    best = known[0]
    close = [h for h in known[1:3] if h.probability >= CLOSE * best.probability]
    names = listed([f"“{h.title}” ({h.cause})" for h in [best, *close]])
    lead = f"the evidence is too weak to choose; {names} {'lead' if close else 'leads'}"
    absent = [c for c in DECISIVE if c not in case.run.columns]
    log = f" Log {', '.join(absent[:4])} next time." if absent else ""
    return f"Not known yet: {lead}. The replay that would decide: {by_slug[best.cause].proof_text}{log}"


def watch_advice(case: Case) -> str:
    """For an unresolved incident: the level to watch for, and when to roll back at once; "" for any other."""
    if case.incident.outcome != "unresolved" or case.incident.discarded:
        return ""
    back = f"Roll back{f' to step {case.checkpoint.step}' if case.checkpoint else ''} at once"
    column = case.primary.column
    series, level, past = case.series(column), case.before(column), case.baseline(column)
    name = "the loss" if column == "loss" else plain(column, 60)
    if case.incident.suspected:
        rows = rows_lost(case)
        if rows >= SETTLE_ROWS:
            return f"The loss is {lost_as(case)} in the last {count(rows, 'row')}: wait for no more of them. {back}."
        return f"A loss that is neither blank nor exactly 0 should come back in the next rows. {back} if it does not."
    if series is None or level is None or past is None:
        peak = case.primary.peak
        still = (
            f"do not fall below {number(peak)}, or " if math.isfinite(peak) and case.primary.column == "loss" else ""
        )
        return f"The log ends too soon to judge. {back} if the next rows {still}have no finite loss."
    if not math.isfinite(last := float(series.value[-1])):
        return f"The log ends too soon to judge. {back} if {name} does not become finite again."
    row = furthest(case, column)
    peak = case.primary.peak if row is None else row[1]
    return f"The log ends too soon after the peak to judge. {_watch(case, name, level.value, peak, last, back)}"


def _watch(case: Case, name: str, level: float, peak: float, last: float, back: str) -> str:
    """What the next rows of a column should show, in which direction it departed, and a reason to roll back."""
    past, name = case.baseline(case.primary.column), f"{name[:1].upper()}{name[1:]}" if name[:4] == "the " else name
    sign, side, beyond, move = (1, "below", "above", "rises") if peak >= level else (-1, "above", "below", "falls")
    limit = level + sign * 2 * (0.0 if past is None else noise_sigma(past.value))
    bound = f"{number(limit)} (its level before the incident {'plus' if sign > 0 else 'minus'} two sigmas)"
    if sign * last < sign * limit:
        stay = f"{name} is {side} {bound} in its last row, and should stay there"
        return f"{stay}. {back} if it {move} {beyond} {number(limit)} again, or becomes NaN."
    further = f"{move} {beyond} {number(peak)} again" if math.isfinite(peak) else f"{move} further"
    return (
        f"{name} should {'fall' if sign > 0 else 'rise'} {side} {bound}. {back} if it {further}, becomes NaN, or is "
        f"still {beyond} {number(limit)} after 50 more rows."
    )


def cautious_remedies(case: Case, cause: Cause | None, window: tuple[int, int] | None) -> tuple[Remedy, ...]:
    """§5 of the report without a root cause: remedies that do no harm, and why the others would be guesses. `cause` is
    the best guess, and `window` the batches that someone might skip, where the evidence does not speak against it."""
    logged = _logging(case)
    if case.shown.fix is not None:
        return (*_what_cured(case, case.shown.fix[0]), *logged)
    if case.level("loss") is None and case.onset <= int(case.run.row_steps[0]):
        first = (
            "Look at the initialization, the schedule, the first batch and the dtype: the log begins with the incident."
        )
        declined = Remedy("Roll back or skip.", declined="there is no healthy state to return to")
        return (Remedy(first, "none", once=True), *logged, declined)
    if case.incident.outcome == "diverged":
        return (
            roll_back(case, "replay it unchanged first" if case.checkpoint else ""),
            *logged,
            Remedy("Continue from here.", declined="the run does not recover by itself"),
        )
    guess = f" for “{cause.title}”" if cause else " against a guessed cause"
    first = Remedy("Change nothing yet.", "none", once=True)
    if cause is not None and not cause.harmless:  # section 4 names a replay that would decide
        text = "Change nothing yet; run the replay of section 4 first."
        first = Remedy(text, "one replay from the checkpoint before the onset", once=True)
    skipped = () if window is None else (skip(case, window),)
    why = "a skip removes any spike that a batch causes, but does not show why"
    declined = [each if each.done else replace(each, declined=why) for each in skipped]
    if cause is None or not cause.harmless:
        declined.append(Remedy(f"A remedy{guess}.", declined="the evidence is not sufficient yet"))
    return (first, *logged, *declined)


def _what_cured(case: Case, fix: Change) -> tuple[Remedy, ...]:
    """The remedies that replays have shown: to repeat what cured the incident, `fix`, whatever was wrong."""
    if case.shown.batches is not None:
        left_out = skip(case, case.shown.batches)
        return (
            left_out if left_out.done else replace(left_out, text=f"{left_out.text} {_why_skip(case)}"),
            _look(case),
        )
    if case.shown.rate is not None:
        return (lower_rate(case),)
    text = build_intervention(fix).text
    return (Remedy(f"Go on with what cured the incident in a replay: {text}.", "the cause is still open", once=True),)


def _why_skip(case: Case) -> str:
    """What the replays showed of the batches that are left out."""
    carried = ", and moved, they take the incident along" if case.shown.carries else ""
    return f"Without them a replay had no incident{carried}: this is a remedy, whatever is wrong with them."


def _look(case: Case) -> Remedy:
    assert case.shown.batches is not None
    first, last = case.shown.batches
    text = f"Look at the samples of the batches [{first}, {last}) before a run consumes them again."
    return Remedy(text, "a look at some samples")


def passed_over(case: Case) -> str:
    """Why the checkpoints between the healthy one and the onset were not chosen, in words; "" if there are none."""
    newer = [(f"{c.role} {c.path.name}", health) for c, health in case.passed_over]
    texts = [f"{plain(name, 100)} {health.text}" for name, health in newer[:PASSED_OVER]]
    more = f"; {len(newer) - PASSED_OVER} more are no better" if len(newer) > PASSED_OVER else ""
    unknown = any(health.state == "not looked at" for _, health in newer)
    look = f". To look: postmortem checkpoints {plain(case.run.path, 300)}" if unknown else ""
    return f"{'; '.join(texts)}{more}{look}" if newer else ""


def _logging(case: Case) -> tuple[Remedy, ...]:
    """The remedy against not knowing: log what is missing."""
    absent = ", ".join(_absent(case)[:3])
    return (Remedy(f"Log {absent} in the next run.", "a few numbers in each row"),) if absent else ()


def _absent(case: Case) -> list[str]:
    return [column for column in DECISIVE if column not in case.run.columns]


def fact_without_cause(case: Case) -> str:
    """What an incident teaches whose cause is unknown; "" where that is nothing that another run could use."""
    title = plain(case.incident.title, 60)
    if case.shown.batches is not None:
        first, last = case.shown.batches
        return f"The batches [{first}, {last}) cause the {title}, in a way that is still open"
    if case.shown.rate is not None:
        return f"A lower learning rate prevents the {title}, whose cause is still open"
    return "What is not logged cannot explain an incident" if _absent(case) else ""


def lesson(fact: str, remedies: Sequence[Remedy]) -> str:
    """§7 of the report: `fact`, and the first remedy of §5 that prevents it from happening again; where none does, the
    first one that is recommended. So the lesson never advises what §5 does not contain, or refuses. "" without a
    fact: there is no lesson."""
    if not fact:
        return ""
    advised = [remedy for remedy in remedies if not remedy.declined]
    chosen = next((remedy for remedy in advised if not remedy.once), advised[0] if advised else None)
    fact = fact.rstrip(".")
    return f"{fact}." if chosen is None else f"{fact}: {_lower_first(chosen.text)}"


def _lower_first(text: str) -> str:
    """`text` within a sentence; a name in capitals, such as `LR`, stays."""
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
