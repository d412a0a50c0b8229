"""Says of a run without incidents why it could not be judged, or what the verdict does not cover."""

from __future__ import annotations

from postmortem.assess.other_columns import by_likeness, left_out, looked_at, names_loss, turned_non_finite
from postmortem.detectors import FEWEST_LOSS_ROWS
from postmortem.run import Run
from postmortem.run.naming import name_list
from postmortem.text import count, number, plain

LOSSES = ("loss", "eval_loss")  # either is enough to judge a run by
MOST_NAMES, MOST_TOLD = 6, 3  # columns that a sentence lists, and of which it tells more than the name


def why_not_judged(run: Run) -> tuple[str, ...]:
    """The reasons why the absence of incidents says nothing of `run`, each a part of a sentence; () where it does."""
    return (*_too_little_loss(run), *_non_finite(run))


def not_covered(run: Run) -> tuple[str, ...]:
    """What the absence of incidents does not cover in a run that was judged, each a part of a sentence."""
    parts: list[str] = []
    for name in LOSSES:
        series = run.series(name)
        if series is not None and len(series) < FEWEST_LOSS_ROWS:
            parts.append(f"{name} has only {count(len(series), 'row')}")
        elif series is not None:
            last = int(series.step[FEWEST_LOSS_ROWS - 2])
            rows = f"the first {count(FEWEST_LOSS_ROWS - 1, 'row')} of {name} (through step {last})"
            parts.append(f"{rows} have no baseline, and only a blow-up is seen there")
    if rest := left_out(run):
        were = "was" if rest == 1 else "were"
        parts.append(f"{count(rest, 'further column')} without a known meaning {were} not looked at")
    return tuple(parts)


def no_loss(run: Run, what: str) -> str:
    """That no loss was recognized, among which columns, and what would help."""
    blank = [name for name in LOSSES if name in run.blank_columns]
    if blank:
        return f"{' and '.join(blank)} {'has' if len(blank) == 1 else 'have'} no value in any row"
    names = [*by_likeness(run), *run.columns]
    among = f"{what} was recognized among {name_list(names, MOST_NAMES)}" if names else f"{what} was logged"
    numeric = [name for name in looked_at(run) if run.series(name) is not None]
    candidates = [*filter(names_loss, numeric)] or numeric
    if not candidates:
        return f"{among}: log the loss in each row"
    if len(candidates) == 1:
        return f"{among}; name it: --map loss={plain(candidates[0], 60)}"
    return f"{among}; name it: --map loss=<column>, perhaps {name_list(candidates, MOST_TOLD)}"


def _too_little_loss(run: Run) -> tuple[str, ...]:
    rows = {name: len(series) for name in LOSSES if (series := run.series(name)) is not None}
    most = max(rows.values(), default=0)
    if not rows:
        return (no_loss(run, "no train or evaluation loss"),)
    if not any(series.value.any() for name in rows if (series := run.series(name)) is not None):
        return (f"{' and '.join(rows)} {'is' if len(rows) == 1 else 'are'} 0 in every row",)
    if most >= FEWEST_LOSS_ROWS:
        return ()
    read = " and ".join(f"{count(n, 'row')} of {name}" for name, n in rows.items())
    were = "was" if sum(rows.values()) == 1 else "were"
    return (f"too few rows: {read} {were} read, and the detectors need {FEWEST_LOSS_ROWS}",)


def _non_finite(run: Run) -> tuple[str, ...]:
    """That columns without a known meaning turned non-finite."""
    turned = turned_non_finite(run)
    if not turned:
        return ()
    each = [f"{plain(t.column, 60)} is {number(t.last)} from step {t.step} to its end" for t in turned[:MOST_TOLD]]
    rest = f", and {len(turned) - MOST_TOLD} more are not finite" if len(turned) > MOST_TOLD else ""
    what = "a column that was" if len(turned) == 1 else "columns that were"
    return (f"{what} not understood turned non-finite: {', '.join(each)}{rest}",)
