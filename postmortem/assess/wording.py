"""What is said where the tool does not know, or not yet: an honest sentence and the next thing to do."""

from __future__ import annotations

from collections.abc import Sequence

from postmortem.assess.symptoms import before
from postmortem.case import Case
from postmortem.causes import Cause, causes, roll_back, skip
from postmortem.diagnosis import Hypothesis, Remedy
from postmortem.stats import robust_sigma
from postmortem.text import number

CLOSE = 0.5  # a rival with at least this share of the best cause's probability is worth telling apart
TELLING = ("grad_norm", "lr", "batch_hash", "token_loss_p50", "param_norm", "adam_v_norm", "update_rms")


def not_known(case: Case, ranked: Sequence[Hypothesis], proof: str = "") -> str:
    """Why no root cause is given: what replays showed (`proof`), or the replay, or column, that would decide."""
    if proof:
        return f"Not known: {proof}."
    by_slug = {c.slug: c for c in causes()}
    known = [h for h in ranked if h.cause in by_slug]
    if not known:
        return "Not known yet: nothing that was seen speaks for or against a cause that is known here."
    best = known[0]
    close = [h for h in known[1:3] if h.probability >= CLOSE * best.probability]
    names = " and ".join(f"“{h.title}” ({h.cause})" for h in [best, *close])
    lead = f"the evidence is too thin to choose; {names} {'lead' if close else 'leads'}"
    absent = [c for c in TELLING if c not in case.run.columns]
    log = f" Log {', '.join(absent[:4])} next time." if absent else ""
    return f"Not known yet: {lead}. The replay that would decide: {by_slug[best.cause].replay}{log}"


def watch(case: Case) -> str:
    """Unresolved only: the level to watch for, and what would make it a rollback now."""
    if case.incident.outcome != "unresolved" or case.incident.discarded:
        return ""
    level, past = before(case), case.baseline("loss")
    if level is None or past is None:
        return "The log ends too soon to tell. If the next rows bring no finite loss, roll back now."
    back, worst = level + 2 * robust_sigma(past.value), case.departure("loss", sign=1)
    limit = f"rises beyond {number(worst.value)} again" if worst is not None else "rises further"
    target = f" to step {case.checkpoint.step}" if case.checkpoint else ""
    return (
        f"The log ends too soon after the peak to tell. Watch for a loss under {number(back)} (what it was before, "
        f"and two sigmas). Roll back{target} now if it {limit}, turns NaN, or is still above {number(back)} after 50 "
        "more rows."
    )


def careful(case: Case, cause: Cause | None, window: tuple[int, int]) -> tuple[Remedy, ...]:
    """§5 without a root cause: what does no harm, and what was not proposed on a guess."""
    if case.level("loss") is None and case.onset <= int(case.run.row_steps[0]):
        first = "Look at the initialisation, the first batch and the dtype: no finite row precedes the incident."
        return (Remedy(first, "none"), Remedy("Roll back or skip.", declined="there is nothing healthy to go back to"))
    if case.incident.outcome == "diverged":
        return (
            roll_back(case, "replay it unchanged first"),
            Remedy("Go on from here.", declined="the run does not come back by itself"),
        )
    guess = f" for {cause.title.lower()}" if cause else ""
    first = Remedy(
        "Change nothing yet; run the replay of section 4 first.", "one replay from the checkpoint before the onset"
    )
    skipped = skip(case, window)
    return (
        first,
        Remedy(
            skipped.text,
            skipped.side_effect,
            declined="a skip removes any spike that a batch brought, and would not say why",
        ),
        Remedy(f"A remedy{guess}.", declined="the evidence does not carry it yet"),
    )


def open_lesson(case: Case, cause: Cause | None) -> str:
    """§7 without a root cause."""
    absent = [c for c in TELLING if c not in case.run.columns]
    if absent:
        return f"An incident without {', '.join(absent[:3])} in the log cannot be explained: record them."
    likely = f"; {cause.slug} is the first to test" if cause else ""
    return f"The panels alone did not decide the cause{likely}: replay before you change anything."
