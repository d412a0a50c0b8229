"""Judges a single replay that a user started: what it did to an incident."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from postmortem.change import Change
from postmortem.diagnosis import Experiment, Incident
from postmortem.interventions import build_intervention
from postmortem.proof.judge import NEAR, OutcomeJudge, find_reappearance, judge_replay
from postmortem.proof.null_replay import judge_null_replay
from postmortem.run import Run
from postmortem.run.replayed import ReplayResult


def changes_text(changes: Sequence[Change]) -> str:
    """Changes in words. Raises UsageError if one of them does not exist."""
    return ", ".join(build_intervention(change).text for change in changes)


def judge_single(
    run: Run,
    incident: Incident,
    replayed: Run,
    result: ReplayResult,
    changes: tuple[Change, ...],
    attempt: int | None,
    path: str,
) -> Experiment:
    """What the replay `replayed` of the lineage `attempt` of `run` did to `incident`; `path`: its folder."""
    if not changes:
        null = judge_null_replay(incident, result, find_reappearance(replayed, incident), path)
        return replace(null.experiment, role="replay")
    first = max(result.from_step, incident.onset_step - NEAR)
    judge = OutcomeJudge.of(run, incident, first).with_reference_excess(run, attempt)
    judged = judge_replay(judge, replayed, result.from_step, nonfinite=result.nonfinite)
    no_effect = result.exact or set(result.idle) >= {build_intervention(change).text for change in changes}
    idle = f"; {', '.join(result.idle)}: changed nothing" if result.idle else ""
    effect = "it changed nothing in the replayed steps" if no_effect else judged.text + idle
    return Experiment(
        role="replay",
        changes=changes,
        outcome="" if no_effect else judged.outcome,
        text=f"{changes_text(changes)}: {effect}",
        excess=judged.excess,
        from_step=result.from_step,
        steps=result.steps,
        seconds=result.seconds,
        run=path,
    )
