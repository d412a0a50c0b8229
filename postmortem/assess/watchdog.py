"""What the watchdog asks for in an incident that it found; and where it found none, what its rule let pass."""

from __future__ import annotations

from dataclasses import replace

from postmortem.assess.detection import closest_to_incident, detect
from postmortem.assess.judged import no_loss
from postmortem.case import Case
from postmortem.detectors import Closest, Watchdog
from postmortem.diagnosis import PanelReading, Rollback, WatchdogRule
from postmortem.run import Run
from postmortem.run.recorded import RecordedRun
from postmortem.text import count, number, plain, times

LOSS = "loss"  # the slug of the one panel whose column the watchdog looks at


def watchdog_rule(run: Run, watchdog: Watchdog, *, has_incident: bool) -> tuple[WatchdogRule, tuple[str, ...]]:
    """(the rule that searched `run`, in words and figures, with the reason why it found nothing, if it has no incident;
    why it could not judge the run, if so)."""
    text = (
        f"a loss above {number(watchdog.ratio)}× the median of the last {count(watchdog.history, 'row')}, or not "
        f"finite, for {count(watchdog.sustain, 'row')}"
    )
    passed, not_judged = "", ()
    if not has_incident:
        seen = closest_to_incident(run, watchdog)
        not_judged = _why_not_judged(run, watchdog, seen)
        reason = _why_none(watchdog, seen) if seen is not None and not not_judged else "; ".join(not_judged)
        passed = reason + _seen_by_all(run)
    return WatchdogRule(watchdog.ratio, watchdog.sustain, watchdog.history, text, passed), not_judged


def rollback(case: Case, watchdog: Watchdog) -> Rollback:
    """Where the watchdog rolls back to, which batches it skips, and why.

    The skipped batches lie around the onset, wherever the checkpoint is: they are those that were used before and
    during the incident.
    """
    figures = case.incident.findings[0].figures
    step = figures.get("rollback_to_step")
    first = RecordedRun(case.run, case.incident.lineage).batch_index_at(max(0, case.onset - watchdog.margin))
    return Rollback(
        rollback_to_step=None if step is None else int(step),
        skip_batches=watchdog.skip,
        skip=(first, first + watchdog.skip),
        reason=f"{case.incident.kind}_sustained",
        margin=watchdog.margin,
        checkpoint_seen=any(checkpoint.complete for checkpoint in case.run.checkpoints),
    )


def quiet_reading(reading: PanelReading, rule: WatchdogRule) -> PanelReading:
    """What a panel shows of a run in which the watchdog found nothing: it looked at the loss and at nothing else."""
    if reading.slug == LOSS:
        return reading if reading.silent else replace(reading, summary=rule.passed)
    reason = reading.silent or "logged, but the watchdog looks at the loss only"
    return replace(
        reading, summary="", silent=reason, would_tell=reading.would_tell if reading.silent else "", traces=()
    )


def _why_not_judged(run: Run, watchdog: Watchdog, seen: Closest | None) -> tuple[str, ...]:
    """Why the rule could judge no row, as a part of a sentence; () where it judged one."""
    if seen is None:
        return (f"the watchdog looks at the train loss only: {no_loss(run, 'none')}",)
    if seen.judged:
        return ()
    rows = f"{seen.rows}, and it needs {watchdog.min_rows}"
    return (f"too few rows of loss for the watchdog's baseline ({rows}): only values that are not finite are found",)


def _why_none(watchdog: Watchdog, seen: Closest) -> str:
    """Why the rule found no incident, as a part of a sentence that does not say more than was looked at."""
    ratio = f"its ratio of {number(watchdog.ratio)}"
    highest = f"the watchdog lets the loss pass: {times(seen.ratio)} its rolling median at step {seen.step} is"
    if not seen.longest:
        return f"{highest} {'below' if seen.ratio < watchdog.ratio else 'not above'} {ratio}"
    lasted = f"the longest stretch is {count(seen.longest, 'row')} (from step {seen.longest_from} on)"
    needed = f"and the rule needs {watchdog.sustain}"
    if seen.ratio <= watchdog.ratio:
        return f"the watchdog lets the loss pass: it is not finite at times, but {lasted}, {needed}"
    return f"{highest} above {ratio}, but {lasted}, {needed}"


def _seen_by_all(run: Run) -> str:
    """What all detectors together find in the run; "" where they find nothing either."""
    incidents = detect(run)
    if not incidents:
        return ""
    worst = f"{plain(incidents[0].title, 60)} at step {incidents[0].onset_step}"
    number_of = "" if len(incidents) == 1 else f"{count(len(incidents), 'incident')}, the worst: "
    return f"; --mode all finds {number_of}{worst}"
