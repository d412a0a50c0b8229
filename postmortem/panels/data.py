"""Panel 11, data: which batch it was, where it came from, and whether the run had consumed it before."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from postmortem.case import MIN_CLEAN_ROWS, Case, Observation
from postmortem.panels import Panel
from postmortem.panels._batch_likelihood import MOST_SHARE, in_incident, likelihood_observation
from postmortem.panels._batch_repeats import repeat_observations
from postmortem.panels._batch_tokens import concentration_observation, count_observation, names_of, rare_tokens
from postmortem.panels._drawing import draw_lines
from postmortem.panels._epochs import epoch_period
from postmortem.panels._settings import batch_changes
from postmortem.text import number, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from postmortem.diagnosis import PanelReading

MOST_ROWS = 20_000  # nearest the onset, in which the batch's samples are searched


FEWEST_USUAL = 2  # batches from a source before the onset: one that was seen less often is not called usual


def _measure(case: Case) -> list[Observation]:
    return [
        *_valid_labels(case),
        *batch_changes(case),
        *_repeats(case),
        *epoch_period(case),
        *_source(case),
        *_composition(case),
        *_sibling_batch(case),
    ]


def _valid_labels(case: Case) -> list[Observation]:
    series = case.series("valid_labels")
    near = series.window(case.onset - case.row_step, case.onset + 2 * case.row_step) if series is not None else None
    if near is None or not len(near):
        return []
    if (near.value == 0).any():
        step = int(near.step[near.value == 0][0])
        text = f"valid_labels is 0 in the batch of step {step}: a mean over its labels is 0/0"
        return [Observation("data.no_labels", text, "valid_labels", step, {"value": 0})]
    fewest = float(near.value.min())
    if not np.isfinite(fewest):
        return []
    text = f"valid_labels is at least {number(fewest)} in each batch around the onset"
    return [Observation("data.labels_valid", text, "valid_labels", case.onset, {"value": fewest}, moved=False)]


def _repeats(case: Case) -> list[Observation]:
    for finding in case.incident.findings:
        if finding.kind == "repeated_batch":
            rows = int(finding.figures["rows"])
            where = (
                f"at step {finding.onset_step}" if rows == 1 else f"in {rows:,} rows from step {finding.onset_step} on"
            )
            text = f"an earlier batch hash comes again {where}"
            strength = min(1.0, 0.25 + rows / 4)  # one repeat may be chance, or the border between two epochs
            return [Observation("data.repeat", text, "batch_hash", finding.onset_step, {"rows": rows}, strength)]
    hashes = case.labels("batch_hash")
    suspect = hashes.at(case.onset) if hashes is not None else None
    if hashes is None or suspect is None:
        return []
    steps = hashes.step[hashes.value == suspect]
    far = [int(s) for s in steps if abs(int(s) - case.onset) > 20 * case.row_step]
    near = steps[(np.abs(steps - case.onset) <= 20 * case.row_step) & (steps != case.onset)]
    observations: list[Observation] = []
    if not near.size:
        text = "the batch hash differs from those of the neighboring steps"
        observations.append(Observation("data.unique", text, "batch_hash", case.onset, moved=False))
    return [*observations, *_other_epochs(case, far), *_samples_elsewhere(case)]


def _other_epochs(case: Case, steps: list[int]) -> list[Observation]:
    """What the same batch did at other `steps`, where an incident could have been seen."""
    first = int(case.run.row_steps[0]) + MIN_CLEAN_ROWS * case.row_step
    judged = [step for step in steps if step >= first]
    harmless = [step for step in judged if not in_incident(case, step)]
    if not judged:
        return []
    step = (harmless or judged)[0]
    text = f"the same batch hash occurs at step {step} {'without' if harmless else 'with'} an incident"
    slug = "data.same_batch_harmless" if harmless else "data.same_batch_harmful"
    return [Observation(slug, text, "batch_hash", step, {"step": step}, moved=not harmless)]


def _samples_elsewhere(case: Case) -> list[Observation]:
    """Whether each sample of the batch was harmless in another batch, as in another epoch that was shuffled."""
    names = case.labels("sample_ids")
    here = set(names_of(names.at(case.onset))) if names is not None else set[str]()
    if names is None or not here:
        return []
    first = int(case.run.row_steps[0]) + MIN_CLEAN_ROWS * case.row_step
    far = (np.abs(names.step - case.onset) > 20 * case.row_step) & (names.step >= first)
    rows, left = np.flatnonzero(far), set(here)
    for row in rows[np.argsort(np.abs(names.step[rows] - case.onset), kind="stable")][:MOST_ROWS].tolist():
        if not left:
            break
        if not left.isdisjoint(others := names_of(names.value[row])) and not in_incident(case, int(names.step[row])):
            left.difference_update(others)
    if left:
        return []
    text = f"each of the {len(here):,} samples of the batch was in another batch that had no incident"
    figures = {"samples": len(here)}
    return [Observation("data.same_samples_harmless", text, "sample_ids", case.onset, figures, moved=False)]


def _source(case: Case) -> list[Observation]:
    """Whether the rows from the onset on share a source that the rows before do not have.

    `length` counts the rows from the onset on until the source changes. Where sources alternate at random, it is one or
    two, and the source is common in the rows before.
    """
    sources = case.labels("source")
    source = sources.at(case.onset) if sources is not None else None
    if sources is None or source is None:
        return []
    index = int(np.searchsorted(sources.step, case.onset))
    same_after = sources.value[index:] == source
    length = int(same_after.size if same_after.all() else np.argmin(same_after))
    before = sources.value[max(0, index - 200) : index]
    share = float(np.mean(before == source)) if before.size else 0.0
    figures = {"rows": length, "share_before": share}
    name = plain(source, 60)
    supplied = f"source {name}, which supplied {number(100 * share)} % of the {before.size} batches before"
    if before.size >= 20 and share < 0.02:
        if length < 0.5 * same_after.size:
            batches = "1 batch comes" if length == 1 else f"{length:,} consecutive batches come"
            slug, text = "data.new_source" if length > 1 else "data.new_source_once", f"{batches} from {supplied}"
        else:
            slug, text = (
                "data.source_changed",
                f"{length:,} of the {same_after.size:,} batches since come from {supplied}",
            )
        return [Observation(slug, text, "source", case.onset, figures)]
    if share * before.size < FEWEST_USUAL:
        return []
    text = f"the batch comes from source {name}, as do {number(100 * share)} % of the batches before"
    return [Observation("data.usual_source", text, "source", case.onset, figures, moved=False)]


def _composition(case: Case) -> list[Observation]:
    """How unlikely and how rare the batch's tokens are. Random tokens contain rare ones, which then show nothing of
    their own. Many samples with one rare token are many rare tokens, whatever their total."""
    repeats = repeat_observations(case)
    likelihood, concentrated, rare = likelihood_observation(case), concentration_observation(case), rare_tokens(case)
    if any(o.slug == "data.periodic" for o in repeats):
        likelihood = None  # no text repeats itself so, and that it is unlikely says no more
    unlikely = likelihood is not None and likelihood.slug == "data.unlikely"
    if concentrated is not None and concentrated.moved and likelihood is not None:
        # The same tokens are not counted twice: what is measured of most tokens goes before what is of one.
        partly = unlikely and likelihood.figure("share") < MOST_SHARE
        likelihood, concentrated = (likelihood, None) if likelihood.moved and not partly else (None, concentrated)
        unlikely &= likelihood is not None
    dense = any(o is not None and o.moved for o in (likelihood, concentrated))
    if rare is not None and (rare.moved if unlikely else dense and not rare.moved):
        rare = replace(rare, slug="data.rare_tokens_unclear")
    ngrams = count_observation(case, "repeated_ngram_tokens", "data.ngrams")
    return [*repeats, *(o for o in (likelihood, concentrated, rare, ngrams) if o is not None)]


def _sibling_batch(case: Case) -> list[Observation]:
    """Whether the same batch, by its hash, was harmless in another run."""
    hashes = case.labels("batch_hash")
    suspect = None if hashes is None else hashes.at(case.onset)
    if case.sibling is None or suspect is None:
        return []
    uses = [(step, case.sibling.incident_near(step, case.row_step, a)) for step, a in case.sibling.consumed(suspect)]
    if not uses:
        return []
    step, incident = next((use for use in uses if use[1] is not None), uses[0])
    name, figures = plain(case.sibling.run.id, 60), {"step": step}
    if incident is None:
        text = f"the run {name} consumed the same batch (by its batch hash) at step {step} without an incident"
        return [Observation("data.baseline_harmless", text, "batch_hash", case.onset, figures, moved=False)]
    text = (
        f"the run {name} consumed the same batch (by its batch hash) at step {step}, and has an incident there as well"
    )
    return [Observation("data.baseline_harmful", text, "batch_hash", case.onset, figures)]


def _draw(ax: Axes, reading: PanelReading) -> None:
    """Draw rare and repeated tokens; valid labels only where a batch had none: they would flatten the other lines."""
    names = {"rare_tokens", "repeated_ngram_tokens"}
    if any(0.0 in trace.value for trace in reading.traces if trace.name == "valid_labels"):
        names = {"valid_labels"}
    traces = tuple(trace for trace in reading.traces if trace.name in names)
    draw_lines(ax, replace(reading, traces=traces or reading.traces))


PANEL = Panel(
    11,
    "data",
    "Data, per batch",
    (
        *("rare_tokens", "valid_labels", "tokens", "repeated_ngram_tokens", "batch_hash", "source", "token_ids"),
        *("batch_size", "accumulation", "world_size"),
    ),
    _measure,
    (
        "which batch it was, whether it repeats, and where it came from: log batch_index, batch_hash, source "
        "and valid_labels"
    ),
    unit="tokens",
    constant_is_silent=False,
    without_columns=lambda case: case.run.epoch() is not None,
    draw=_draw,
    observes=(
        "data.no_labels",
        "data.labels_valid",
        "data.batch_changed",
        "data.epoch_period",
        "data.epoch_start",
        "data.repeat",
        "data.unique",
        "data.samples_again",
        "data.periodic",
        "data.same_batch_harmless",
        "data.same_batch_harmful",
        "data.same_samples_harmless",
        "data.new_source",
        "data.new_source_once",
        "data.source_changed",
        "data.usual_source",
        "data.baseline_harmless",
        "data.baseline_harmful",
        "data.rare_tokens",
        "data.rare_tokens_normal",
        "data.rare_tokens_unclear",
        "data.unlikely",
        "data.likely",
        "data.excess_tokens",
        "data.concentrated_token",
        "data.spread_tokens",
        "data.ngrams",
        "data.ngrams_normal",
        "data.ngrams_unclear",
        "data.nonfinite",
    ),
    nonfinite="data.nonfinite",
)
