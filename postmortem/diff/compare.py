"""Computes the diff of two runs: match rows → compare columns → divergence → events → gap of the loss → verdict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from postmortem.diff import run_summary
from postmortem.diff.alignment import MOST, align_batches
from postmortem.diff.caveats import NO_COMMON_LOSS, cannot_tell, independence_line, step_mismatch
from postmortem.diff.columns import columns_only_in, compare_columns
from postmortem.diff.counter import with_one_counter
from postmortem.diff.divergence import find_divergence
from postmortem.diff.level import Band, measure_gap, noise_band
from postmortem.diff.model import SCHEMA_VERSION, Gap, ManyRunsDiff, RunsDiff
from postmortem.diff.models import model_facts
from postmortem.diff.pair import Pair
from postmortem.diff.relation_text import loss_lines, model_line
from postmortem.diff.relations import find_relations
from postmortem.diff.settings import differing_settings
from postmortem.diff.verdict import judge
from postmortem.run import Run
from postmortem.version import __version__


@np.errstate(all="ignore")  # a log may contain any float: 1e308 next to -1e308 is a finding, not a warning on stderr
def diff_runs(a: Run, b: Run, *, context: Sequence[Run] = ()) -> RunsDiff:
    """Compare `b` with `a`.

    `context` are runs as good as `a` (other seeds, null replays): their spread around `a` widens the noise band.
    """
    a, b, counters = with_one_counter(a, b)
    pair = Pair(a, b)
    columns = compare_columns(pair)
    summary_a, summary_b = run_summary.summarize_both(pair, same=all(column.equal for column in columns))
    only_a = run_summary.one_run_only("a", summary_a, summary_b)
    only_b = run_summary.one_run_only("b", summary_b, summary_a)
    settings = differing_settings(a, b)
    rewinds = [(only.letter, rewind) for only in (only_a, only_b) for rewind in only.rewinds]
    divergence = find_divergence(pair, columns, settings, rewinds)
    event_steps = [step for only in (only_a, only_b) if (step := only.first_step) is not None]
    event_steps += [divergence.step] if divergence is not None and (only_a.skipped or only_b.skipped) else []
    curve = pair.by_step("loss")
    noise = None if curve is None else noise_band(curve, [c for run in context if (c := Pair(a, run).by_step("loss"))])
    lacking = NO_COMMON_LOSS if curve is None else "too few rows" if noise is None else ""
    gaps = _gaps(pair, noise, min(event_steps, default=None), max(summary_a.row_step, summary_b.row_step))
    mismatch = step_mismatch(pair, summary_a, summary_b)
    alignment = align_batches(pair)
    relations = find_relations(pair, columns, [rewind.step for _, rewind in rewinds[-MOST:]])
    models = model_facts(pair, relations)
    verdict, reason = judge(columns, pair.steps.size, mismatch, lacking or gaps[0], (only_a, only_b))
    if curve is not None and noise is not None:
        summary_a = run_summary.with_recoveries(a, summary_a, only_a, curve, noise)
        summary_b = run_summary.with_recoveries(b, summary_b, only_b, curve, noise)
    return RunsDiff(
        schema_version=SCHEMA_VERSION,
        tool=f"postmortem {__version__}",
        verdict=verdict,
        reason=reason,
        top_lines=(
            *((counters,) if counters else ()),
            *model_line(models),
            *loss_lines(relations, columns, summary_a, summary_b),
            *independence_line(summary_a, summary_b, alignment, verdict),
            *run_summary.top_lines(summary_a, summary_b, (only_a, only_b)),
            *mismatch.lines,
            *run_summary.nonfinite_lines(summary_a, summary_b),
        ),
        a=summary_a,
        b=summary_b,
        settings=settings,
        divergence=divergence,
        alignment=alignment,
        gaps=gaps,
        relations=relations,
        models=models,
        columns=columns,
        columns_only_a=columns_only_in(a, b),
        columns_only_b=columns_only_in(b, a),
        cannot_tell=cannot_tell(pair, lacking),
    )


def diff_many_runs(runs: Sequence[Run]) -> ManyRunsDiff:
    """Compare every run with the first."""
    diffs = tuple(diff_runs(runs[0], run) for run in runs[1:])
    return ManyRunsDiff(SCHEMA_VERSION, f"postmortem {__version__}", diffs)


def _gaps(pair: Pair, noise: Band | None, event_step: int | None, row_step: int) -> tuple[Gap, ...]:
    """The loss by step and by batch, and the held-out loss by step, each compared with its own noise."""
    gaps: list[Gap] = []
    for curve, event, known_band in (
        (pair.by_step("loss"), event_step, noise),
        (pair.by_batch("loss"), None, None),
        (pair.by_step("eval_loss"), event_step, None),
    ):
        band = known_band if known_band is not None or curve is None else noise_band(curve)
        if curve is not None and band is not None:
            gaps.append(measure_gap(curve, band, row_step, event))
    return tuple(gaps)
