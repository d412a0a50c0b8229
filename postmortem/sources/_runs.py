"""A place that holds several runs: their names, and what reads each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from postmortem.errors import UnreadableInput
from postmortem.run import Run
from postmortem.sources._several_runs import SeveralRuns
from postmortem.text import plain


def by_name(runs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Name → id, for (id, name) pairs; runs that share a name are named by their ids."""
    times = Counter(name for _, name in runs)
    return {(name if name and times[name] == 1 else run_id): run_id for run_id, name in runs}


def only_run(kind: str, path: Path, runs: Mapping[str, Callable[[], Run]]) -> Run:
    """The only one of the runs in `path`, which is `kind`, as in "an MLflow store".

    Raises:
        SeveralRuns: there are more.
        UnreadableInput: there is none.
    """
    if not runs:
        raise UnreadableInput(f"{kind} in which no run has metrics.", file=plain(path))
    if len(runs) > 1:
        raise SeveralRuns(f"{kind} of {len(runs):,} runs", runs, file=plain(path))
    return next(iter(runs.values()))()
