"""Weighs observations as evidence and ranks the hypotheses: log-odds add up, and a softmax turns them into shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from postmortem.case import Case, Observation
from postmortem.causes import Cause, causes
from postmortem.diagnosis import UNKNOWN, Evidence, Hypothesis, Prediction, Verdict, rank, strength

UNKNOWN_SCORE = 0.0  # log-odds of "none of the causes known here", which every cause has to beat
SUPPORTED_SHARE = 0.61  # the best cause must have more than this share, or the tool abstains
SUPPORTED_WEIGHT = 2.0  # … and at least one observation alone must give it this weight, also to lead at all
FAVORS, COUNTS_AGAINST = 0.3, 1.5  # log-odds from which a panel counts as supporting a cause, or as counting against it
HINTED = -0.5  # the highest log-odds of a cause that only hints speak for: many are no knowledge, yet above any prior
ALIKE = 0.7  # log-odds: rivals this close to the best predict the panels equally well


def weigh(case: Case, observations: Sequence[tuple[int, Observation]]) -> tuple[Evidence, ...]:
    """Each observation with the weight that every cause gives it; `observations` are (panel number, observation)."""
    evidence: list[Evidence] = []
    for panel, o in observations:
        weights = {c.slug: round(c.weights[o.slug] * o.strength, 3) for c in causes() if o.slug in c.weights}
        evidence.append(Evidence(panel, o.slug, o.text, o.step, dict(o.figures), _origin(case, o.column), weights))
    return tuple(evidence)


def rank_causes(
    evidence: Sequence[Evidence], predictions: Mapping[str, tuple[Prediction, ...]]
) -> tuple[Hypothesis, ...]:
    """The causes that the evidence speaks for or against, and `unknown`, best first, each with its predictions of
    replays. A cause without any evidence is left out, so that it takes no share from the others."""
    involved = {c.slug: c for c in causes() if any(e.observation in c.weights for e in evidence)}
    sums = {slug: c.prior + sum(e.weights.get(slug, 0.0) for e in evidence) for slug, c in involved.items()}
    scores = {slug: total if _is_specific(slug, evidence) else min(total, HINTED) for slug, total in sums.items()}
    titles = {slug: c.title for slug, c in involved.items()} | {UNKNOWN: "None of the causes known here"}
    rivals = {slug: c.rivals for slug, c in involved.items()}
    absent = {c.slug for c in causes()} - involved.keys()
    sums[UNKNOWN] = scores[UNKNOWN] = UNKNOWN_SCORE
    in_order = sorted(rank(scores).items(), key=lambda share: (-scores[share[0]], -sums[share[0]]))
    return tuple(
        Hypothesis(
            cause=cause,
            title=titles[cause],
            probability=probability,
            score=round(scores[cause], 3),
            strength=strength(probability),
            supported_by=_panels(evidence, cause, 1),
            ruled_out_by=_panels(evidence, cause, -1),
            indistinguishable_from=tuple(
                r
                for r in rivals.get(cause, ())
                if r not in absent and (r not in scores or abs(scores[r] - scores[cause]) < ALIKE)
            ),
            predictions=predictions.get(cause, ()),
        )
        for cause, probability in in_order
    )


def _is_specific(cause: str, evidence: Sequence[Evidence]) -> bool:
    """Whether a single observation is specific to the cause."""
    return max((e.weights.get(cause, 0.0) for e in evidence), default=0.0) >= SUPPORTED_WEIGHT


def panel_verdict(ranked: Sequence[Hypothesis], evidence: Sequence[Evidence]) -> Verdict:
    """`supported` where one known cause outweighs all others together, else `undecided`: abstaining is a result."""
    best = ranked[0]
    clear = best.cause != UNKNOWN and best.probability > SUPPORTED_SHARE and _is_specific(best.cause, evidence)
    return "supported" if clear else "undecided"


def leading_cause(ranked: Sequence[Hypothesis]) -> Cause | None:
    """The best known cause; `unknown` is left out."""
    by_slug = {c.slug: c for c in causes()}
    return next((by_slug[h.cause] for h in ranked if h.cause in by_slug), None)


def backed_causes(ranked: Sequence[Hypothesis]) -> tuple[Cause, ...]:
    """The known causes that a panel supports and all observations together say more for than against, best first."""
    score = {h.cause: h.score for h in ranked if h.supported_by}
    backed = {c.slug: c for c in causes() if score.get(c.slug, c.prior) > c.prior}
    return tuple(backed[h.cause] for h in ranked if h.cause in backed)


def _panels(evidence: Sequence[Evidence], cause: str, sign: int) -> tuple[int, ...]:
    """Panels that count for (sign +1) or against (−1) a cause on balance, strongest first."""
    balance: dict[int, float] = {}
    for e in evidence:
        balance[e.panel] = balance.get(e.panel, 0.0) + sign * e.weights.get(cause, 0.0)
    threshold = FAVORS if sign > 0 else COUNTS_AGAINST
    return tuple(sorted((p for p, weight in balance.items() if weight >= threshold), key=lambda p: -balance[p]))


def _origin(case: Case, column: str) -> str:
    try:
        return case.run.origin(column) if column else ""
    except KeyError:
        return ""
