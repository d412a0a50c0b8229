"""Checks a stored proof against the replays that lie in the run: the file may come from a stranger, and is a claim.

Nothing of what the file says is taken over. The replays that it names are judged again from their rows, and the verdict
is decided again by the same rules. Where the replays are gone, or are not of this run, no draft says "confirmed": a
cause that the file names is then `supported`, if the panels suggest it and the recorded outcomes would prove it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from postmortem.assess.suspect import AWAY, NEAREST
from postmortem.change import Change
from postmortem.diagnosis import Experiment, Incident, Prediction, Verdict
from postmortem.errors import UsageError
from postmortem.proof.decision import (
    Decision,
    causes_that_name,
    decide,
    first_arms,
    judge_arm,
    next_arms,
    placebo_doubt,
    predictions_hold,
)
from postmortem.proof.design import MIN_PROBABILITY, Arm, Design, design_experiment
from postmortem.proof.evidence import (
    NoEvidence,
    Opener,
    RecordedReplay,
    compared_again,
    first_difference,
    read_evidence,
    require_replay_of,
    require_trace,
)
from postmortem.proof.judge import OutcomeJudge, find_reappearance, loss_spread
from postmortem.proof.null_replay import (
    NOTHING_TO_CURE,
    NullReplay,
    judge_null_replay,
    judge_second_null_replay,
)
from postmortem.proof.single import changes_text, judge_single
from postmortem.proof.stored_proofs import FILE, Proof, proof_hash
from postmortem.run import Run

MOST_SINGLES = 20  # single replays that a draft reads, the newest ones


@dataclass(frozen=True)
class CheckedProof:
    """What a draft takes from a stored proof. verdict: None if that of the panels stands. cause: the proven one, or "".
    text: what the replays show, or what is left of a proof whose replays are gone. note: why the file was not taken
    up, or ""."""

    verdict: Verdict | None = None
    cause: str = ""
    text: str = ""
    experiments: tuple[Experiment, ...] = ()
    note: str = ""


class _Contradiction(Exception):
    """Why what a file says cannot be true, in words."""


def check_proof(run: Run, incident: Incident, proof: Proof, open_at: Opener) -> CheckedProof:
    """What is left of `proof`, which was stored for `incident`, after a look at its replays; `open_at` reads them.

    `incident` is as the panels see it, without any proof.
    """
    listed = [experiment for experiment in proof.experiments if experiment.role == "replay"]
    singles = tuple(
        _checked_single(run, incident, claim, open_at) if n <= MOST_SINGLES else _unchecked(claim, "not looked at")
        for n, claim in zip(range(len(listed), 0, -1), listed, strict=True)
    )
    arms = [experiment for experiment in proof.experiments if experiment.role != "replay"]
    if not arms and proof.verdict == "undecided":
        return CheckedProof(experiments=singles)
    try:
        checked = _check_arms(run, incident, proof, arms, open_at)
    except (_Contradiction, UsageError) as error:
        checked = CheckedProof(note=_note(incident, proof, f"was not taken up: {error}"))
    return replace(checked, experiments=(*checked.experiments, *singles))


def _check_arms(
    run: Run, incident: Incident, proof: Proof, arms: Sequence[Experiment], open_at: Opener
) -> CheckedProof:
    nulls = [claim for claim in arms if claim.role == "R0"]
    if not nulls:
        raise _Contradiction("it names no null replay")
    try:
        decision, experiments = _Review(run, incident, open_at).decision(nulls, arms)
    except NoEvidence as error:
        return _as_claimed(incident, proof, nulls, arms, error)
    if (decision.verdict, decision.cause) != (proof.verdict, proof.cause):
        raise _Contradiction(f"its replays show {decision.verdict}{f': {decision.cause}' if decision.cause else ''}")
    return CheckedProof(decision.verdict, decision.cause, decision.text, tuple(experiments))


class _Review:
    """Judges the replays of one record again, and decides again."""

    def __init__(self, run: Run, incident: Incident, open_at: Opener) -> None:
        self._run, self._incident, self._open = run, incident, open_at

    def decision(self, nulls: Sequence[Experiment], arms: Sequence[Experiment]) -> tuple[Decision, list[Experiment]]:
        """What the replays show, and each of them as it is judged now."""
        replay, incident = self._replay(nulls[0], self._run), self._incident
        null = judge_null_replay(incident, replay.result, find_reappearance(replay.run, incident), nulls[0].run)
        if not null.reproduces:
            return self._not_reproducible(nulls, replay, null)
        design = _design_of(incident, arms)
        matched, noise = _matched(design, arms), dict[Arm, RecordedReplay | None]()
        judge = OutcomeJudge.of(self._run, incident, design.first)
        if not null.exact:
            noise = {arm: self._arm(claim, replay) for arm, claim in matched if arm.changes[0].name == "noise"}
            noisy = [other.run for other in noise.values() if other is not None]
            judge = judge.with_band(loss_spread([replay.run, *noisy], design.arms_start))
        judge = judge.with_reference_excess(replay.run)
        if not (null.detected or judge.has_reference_excess):
            return Decision("undecided", "", NOTHING_TO_CURE), [null.experiment]
        driven: dict[Arm, Experiment] = {}
        for arm, claim in matched:  # one after another: a large run has large replays
            arm_replay = noise[arm] if arm in noise else self._arm(claim, replay)
            driven[arm] = _judged(design, arm, claim, judge, arm_replay)
        if not _is_complete(design, driven):
            raise NoEvidence("by what is known now, further replays are needed")
        return decide(design, null.agreement, driven), [null.experiment, *driven.values()]

    def _replay(self, claim: Experiment, parent: Run) -> RecordedReplay:
        replay = read_evidence(self._run, claim, self._open)
        require_replay_of(parent, replay, self._incident.lineage if parent is self._run else None)
        return replace(replay, result=compared_again(parent, replay))

    def _arm(self, claim: Experiment, null: RecordedReplay) -> RecordedReplay | None:
        """The replay of an arm; None if it could not be driven."""
        parent = null.run if claim.from_step > null.spec.from_step else self._run
        try:
            replay = self._replay(claim, parent)
        except NoEvidence as error:
            if error.gone and not claim.outcome:
                return None
            raise
        if claim.role != "R1":  # a predicted change may do nothing; a placebo and other data leave a trace
            require_trace(parent, replay)
        return replay

    def _not_reproducible(
        self, nulls: Sequence[Experiment], replay: RecordedReplay, null: NullReplay
    ) -> tuple[Decision, list[Experiment]]:
        if null.cause != "bit_flip":
            return Decision("not_reproducible", null.cause, null.reason), [null.experiment]
        if len(nulls) < 2:
            raise NoEvidence("the second null replay is gone", gone=True)
        second = self._replay(nulls[1], self._run)
        steps = replay.spec.from_step, replay.spec.until
        equal = replay.result.state == second.result.state and not first_difference(replay.run, second.run, *steps)
        cause, reason, again = judge_second_null_replay(null, second.result, nulls[1].run, equal=equal)
        return Decision("not_reproducible", cause, reason), [null.experiment, again]


def _design_of(incident: Incident, arms: Sequence[Experiment]) -> Design:
    """The experiment that these arms belong to."""
    start = next(claim.from_step for claim in arms if claim.role == "R0")
    independent = all(claim.from_step == start for claim in arms)
    return design_experiment(_with_recorded_moves(incident, arms), from_step=start, independent=independent)


def _with_recorded_moves(incident: Incident, arms: Sequence[Experiment]) -> Incident:
    """The incident with predictions that move a window to where the record moved it: how far away that is depends on
    the rows that the run had then, and it may have gone on since."""
    moves = {change.windows: change for claim in arms for change in claim.changes if _is_usual_move(change)}

    def recorded(prediction: Prediction) -> Prediction:
        changes = (moves.get(c.windows, c) if _is_usual_move(c) else c for c in prediction.changes)
        return replace(prediction, changes=tuple(changes))

    hypotheses = (replace(h, predictions=tuple(map(recorded, h.predictions))) for h in incident.hypotheses)
    return replace(incident, hypotheses=tuple(hypotheses))


def _is_usual_move(change: Change) -> bool:
    """Whether a change moves one window as far as an experiment does."""
    if change.name != "move" or len(change.windows) != 1 or len(change.values) != 1:
        return False
    destination = change.values[0]
    return isinstance(destination, int) and NEAREST <= destination - change.windows[0][1] <= AWAY


def _matched(design: Design, arms: Sequence[Experiment]) -> list[tuple[Arm, Experiment]]:
    """Each arm of the design with the first record of it."""
    tested = [arm for test in design.tests for arm in test.arms]
    known = {(arm.role, arm.changes): arm for arm in (*tested, *design.placebos, *design.data_state_arms)}
    matched: dict[Arm, Experiment] = {}
    for claim in arms:
        arm = known.get(("R1" if claim.role == "R0" else claim.role, claim.changes))
        if arm is not None and claim.role != "R0":
            matched.setdefault(arm, claim)
    return list(matched.items())


def _judged(
    design: Design, arm: Arm, claim: Experiment, judge: OutcomeJudge, replay: RecordedReplay | None
) -> Experiment:
    """An arm as its rows show it now."""
    if replay is None:
        outcome, excess, text = "", None, "not driven"
    else:
        outcome, excess, text = judge_arm(judge, arm, replay.run, replay.result)
    return Experiment(
        role=arm.role,
        changes=arm.changes,
        outcome=outcome,
        text=f"{arm.text}: {text}",
        excess=excess,
        tests=causes_that_name(design, arm),
        from_step=claim.from_step,
        steps=claim.steps,
        seconds=0.0 if replay is None else replay.result.seconds,
        run=claim.run,
    )


def _is_complete(design: Design, driven: dict[Arm, Experiment]) -> bool:
    """Whether the arms that were driven decide the experiment."""
    if not all(arm in driven for arm in first_arms(design)):
        return False
    return bool(placebo_doubt(design, driven)) or not next_arms(design, driven)


def _as_claimed(
    incident: Incident, proof: Proof, nulls: Sequence[Experiment], arms: Sequence[Experiment], why: NoEvidence
) -> CheckedProof:
    """What is left of a proof whose replays show nothing any more: a cause, if there is reason to believe in it."""
    left = f"as proven {_date_text(proof)}, {why} (proof {proof_hash(proof)})"
    if not proof.cause:
        return CheckedProof(note=_note(incident, proof, f"was not taken up, only {left}"))
    _require_plausible(incident, proof, nulls, arms)
    unchecked = tuple(_unchecked(claim, str(why)) for claim in arms)
    return CheckedProof("supported", proof.cause, left, unchecked)


def _require_plausible(
    incident: Incident, proof: Proof, nulls: Sequence[Experiment], arms: Sequence[Experiment]
) -> None:
    """Check that the recorded outcomes would prove the cause, and that the panels suggest it."""
    suggested = {h.cause for h in incident.hypotheses if h.probability >= MIN_PROBABILITY}
    if proof.cause not in suggested:
        raise _Contradiction(f"no panel suggests {proof.cause}")
    vanished = all(claim.outcome == "vanished" for claim in nulls)
    if proof.verdict == "not_reproducible":
        if not vanished or len(nulls) < (2 if proof.cause == "bit_flip" else 1):
            raise _Contradiction("its null replays do not say so")
        return
    design = _design_of(incident, arms)
    driven = dict(_matched(design, arms))
    if any(claim.outcome != "persists" for claim in nulls):
        raise _Contradiction("its null replay does not show the incident")
    if _is_complete(design, driven):
        decision = decide(design, "", driven)
        holds = (decision.verdict, decision.cause) == (proof.verdict, proof.cause)
    else:
        holds = predictions_hold(design, driven, proof.cause)
    if not holds:
        raise _Contradiction(f"the outcomes that it records do not prove {proof.cause}")


def _checked_single(run: Run, incident: Incident, claim: Experiment, open_at: Opener) -> Experiment:
    """A single replay as its rows show it now, or as it was recorded if it shows nothing any more."""
    try:
        replay = read_evidence(run, claim, open_at)
        require_replay_of(run, replay, incident.lineage)
        result = compared_again(run, replay)
        return judge_single(run, incident, replay.run, result, replay.spec.changes, replay.spec.attempt, claim.run)
    except (NoEvidence, UsageError) as error:
        return _unchecked(claim, str(error))


def _unchecked(claim: Experiment, why: str) -> Experiment:
    """A replay as it was recorded, in our words."""
    try:
        words = changes_text(claim.changes) or "nothing changed"
    except UsageError:
        words = "an unknown change"
    return replace(claim, text=f"{words}: not checked", tests=(), unchecked=why)


def _date_text(proof: Proof) -> str:
    return f"on {proof.date}" if proof.date else "on a day that the file does not name"


def _note(incident: Incident, proof: Proof, what: str) -> str:
    verdict = f"{proof.verdict}{f': {proof.cause}' if proof.cause else ''}"
    return f"{FILE}: {verdict} of the incident at step {incident.onset_step} {what}; prove again: postmortem prove RUN"
