"""The diff in one place: match → compare → where they part → what happened → how far apart → verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from postmortem.diff import run_summary
from postmortem.diff.alignment import alignment
from postmortem.diff.caveats import cannot_tell, unequal
from postmortem.diff.columns import alone, compare
from postmortem.diff.divergence import divergence
from postmortem.diff.level import Band, band, gap
from postmortem.diff.model import SCHEMA_VERSION, Gap, ManyRunsDiff, RunsDiff
from postmortem.diff.pair import Pair
from postmortem.diff.settings import settings
from postmortem.diff.verdict import judge
from postmortem.run import Run
from postmortem.version import __version__


@np.errstate(all="ignore")  # a log may hold any float: 1e308 beside -1e308 is a finding, not a warning on stderr
def diff_runs(a: Run, b: Run, *, context: Sequence[Run] = ()) -> RunsDiff:
    """Hold `b` against `a`.

    `context` are runs as good as `a` (other seeds, null replays): their spread about it widens the noise band.
    """
    pair = Pair(a, b)
    columns = compare(pair)
    side_a, side_b = run_summary.both(pair, same=all(column.equal for column in columns))
    lone = (run_summary.alone("a", side_a, side_b), run_summary.alone("b", side_b, side_a))
    changed = settings(a, b)
    parted = divergence(pair, columns, changed, [(one.letter, r) for one in lone for r in one.rewinds])
    begun = [step for one in lone if (step := one.first_step) is not None]
    begun += [parted.step] if parted is not None and any(one.skipped for one in lone) else []
    curve = pair.by_step("loss")
    noise = None if curve is None else band(curve, [c for run in context if (c := Pair(a, run).by_step("loss"))])
    lacking = "no loss in both" if curve is None else "too few rows" if noise is None else ""
    gaps = _gaps(pair, noise, min(begun, default=None), max(side_a.row_step, side_b.row_step))
    apart = unequal(pair, side_a, side_b)
    verdict, reason = judge(columns, pair.steps.size, apart, lacking or gaps[0], lone)
    if curve is not None and noise is not None:
        side_a, side_b = (
            run_summary.recovered(run, side, one, curve, noise)
            for run, side, one in zip(pair.runs, (side_a, side_b), lone, strict=True)
        )
    return RunsDiff(
        schema_version=SCHEMA_VERSION,
        tool=f"postmortem {__version__}",
        verdict=verdict,
        reason=reason,
        top_lines=(*run_summary.top_lines(side_a, side_b, lone), *apart.told, *run_summary.ends(side_a, side_b)),
        a=side_a,
        b=side_b,
        settings=changed,
        divergence=parted,
        alignment=alignment(pair),
        gaps=gaps,
        columns=columns,
        columns_only_a=alone(a, b),
        columns_only_b=alone(b, a),
        cannot_tell=cannot_tell(pair, lacking),
    )


def compare_runs(runs: Sequence[Run]) -> ManyRunsDiff:
    """Hold every run against the first."""
    diffs = tuple(diff_runs(runs[0], run) for run in runs[1:])
    return ManyRunsDiff(SCHEMA_VERSION, f"postmortem {__version__}", diffs)


def _gaps(pair: Pair, noise: Band | None, begun: int | None, row_step: int) -> tuple[Gap, ...]:
    """The loss by step and by batch, and the held-out loss by step, each against its own noise."""
    found: list[Gap] = []
    for curve, event, width in (
        (pair.by_step("loss"), begun, noise),
        (pair.by_batch("loss"), None, None),
        (pair.by_step("eval_loss"), begun, None),
    ):
        own = width if width is not None or curve is None else band(curve)
        if curve is not None and own is not None:
            found.append(gap(curve, own, row_step, event))
    return tuple(found)
