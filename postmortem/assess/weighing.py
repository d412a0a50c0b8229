"""Observations → evidence → ranked hypotheses: log-odds add up, a softmax over causes and `unknown` ranks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from postmortem.case import Case, Observation
from postmortem.causes import Cause, causes
from postmortem.diagnosis import UNKNOWN, Evidence, Hypothesis, Prediction, Verdict, rank, strength

UNKNOWN_SCORE = 0.0  # log-odds of "none of the causes known here": what every cause has to beat
SUPPORTED_SHARE = 0.61  # the best cause must hold more than this of the probability, or the tool abstains
SUPPORTED_WEIGHT = 2.0  # … and one observation at least must speak for it by itself
FAVORS, RULES_OUT = 0.3, 1.5  # log-odds from which a panel is said to support a cause, or to speak against it
ALIKE = 0.7  # log-odds: rivals that close to the best predict the panels equally well


def evidence(case: Case, seen: Sequence[tuple[int, Observation]]) -> tuple[Evidence, ...]:
    """Each observation with the weight that every cause gives it; `seen` holds (panel number, observation)."""
    found: list[Evidence] = []
    for panel, o in seen:
        weights = {c.slug: round(c.weights[o.slug] * o.strength, 3) for c in causes() if o.slug in c.weights}
        found.append(Evidence(panel, o.slug, o.text, o.step, dict(o.figures), _origin(case, o.column), weights))
    return tuple(found)


def hypotheses(
    weighed: Sequence[Evidence], predictions: Mapping[str, tuple[Prediction, ...]]
) -> tuple[Hypothesis, ...]:
    """The causes that anything seen here speaks for or against, and `unknown`, best first, each with what it predicts
    of replays. A cause of which nothing was seen has nothing to say, and takes no share from those that have."""
    known = {c.slug: c for c in causes() if any(e.observation in c.weights for e in weighed)}
    scores = {slug: c.prior + sum(e.weights.get(slug, 0.0) for e in weighed) for slug, c in known.items()}
    titles = {slug: c.title for slug, c in known.items()} | {UNKNOWN: "None of the causes known here"}
    rivals = {slug: c.rivals for slug, c in known.items()}
    absent = {c.slug for c in causes()} - known.keys()
    scores[UNKNOWN] = UNKNOWN_SCORE
    return tuple(
        Hypothesis(
            cause=cause,
            title=titles[cause],
            probability=probability,
            score=round(scores[cause], 3),
            strength=strength(probability),
            supported_by=_panels(weighed, cause, 1),
            ruled_out_by=_panels(weighed, cause, -1),
            indistinguishable_from=tuple(
                r
                for r in rivals.get(cause, ())
                if r not in absent and (r not in scores or abs(scores[r] - scores[cause]) < ALIKE)
            ),
            predictions=predictions.get(cause, ()),
        )
        for cause, probability in rank(scores).items()
    )


def verdict(ranked: Sequence[Hypothesis], weighed: Sequence[Evidence]) -> Verdict:
    """`supported` where one known cause outweighs all others together, else `undecided`: abstaining is a result."""
    best = ranked[0]
    decisive = max((e.weights.get(best.cause, 0.0) for e in weighed), default=0.0)
    clear = best.cause != UNKNOWN and best.probability > SUPPORTED_SHARE and decisive >= SUPPORTED_WEIGHT
    return "supported" if clear else "undecided"


def cause_of(ranked: Sequence[Hypothesis]) -> Cause | None:
    """The best known cause, leaving `unknown` out."""
    by_slug = {c.slug: c for c in causes()}
    return next((by_slug[h.cause] for h in ranked if h.cause in by_slug), None)


def _panels(weighed: Sequence[Evidence], cause: str, sign: int) -> tuple[int, ...]:
    """Panels that speak for (sign +1) or against (−1) a cause on balance, strongest first."""
    balance: dict[int, float] = {}
    for e in weighed:
        balance[e.panel] = balance.get(e.panel, 0.0) + sign * e.weights.get(cause, 0.0)
    enough = FAVORS if sign > 0 else RULES_OUT
    return tuple(sorted((p for p, weight in balance.items() if weight >= enough), key=lambda p: -balance[p]))


def _origin(case: Case, column: str) -> str:
    try:
        return case.run.origin(column) if column else ""
    except KeyError:
        return ""
