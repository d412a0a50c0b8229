"""Panel 11, data: which batch it was, where it came from, and whether it had been seen before."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from postmortem.case import Case, Observation
from postmortem.panels import Panel
from postmortem.panels._drawing import lines
from postmortem.panels._measuring import compared, figures
from postmortem.text import number, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from postmortem.diagnosis import PanelReading

NORMAL_SIGMAS, COUNT_SIGMAS, SURE_SIGMAS = 2.0, 2.5, 4.0  # of a count: ordinary, raised, beyond doubt


def _measure(case: Case) -> list[Observation]:
    return [*_labels(case), *_repeats(case), *_source(case), *_composition(case), *_sibling(case)]


def _labels(case: Case) -> list[Observation]:
    series = case.series("valid_labels")
    near = series.window(case.onset - case.row_step, case.onset + 2 * case.row_step) if series is not None else None
    if near is None or not len(near):
        return []
    if (near.value == 0).any():
        step = int(near.step[near.value == 0][0])
        return [
            Observation(
                "data.no_labels",
                f"no valid label in the batch of step {step}: the mean loss is 0/0",
                "valid_labels",
                step,
                {"value": 0},
            )
        ]
    at = float(near.value.min())
    return [
        Observation(
            "data.labels_valid",
            f"at least {number(at)} valid labels in the batches around the onset",
            "valid_labels",
            case.onset,
            {"value": at},
            moved=False,
        )
    ]


def _repeats(case: Case) -> list[Observation]:
    for finding in case.incident.findings:
        if finding.kind == "repeated_batch":
            rows = int(finding.figures["rows"])
            many = f"{rows} rows on end" if rows > 1 else "once"
            text = f"a batch hash seen before comes again from step {finding.onset_step}, {many}"
            sure = min(1.0, 0.25 + rows / 4)  # one repeat may be chance or an epoch's seam
            return [Observation("data.repeat", text, "batch_hash", finding.onset_step, {"rows": rows}, sure)]
    hashes = case.labels("batch_hash")
    here = hashes.at(case.onset) if hashes is not None else None
    if hashes is None or here is None:
        return []
    same = hashes.step[hashes.value == here]
    elsewhere = [int(s) for s in same if abs(int(s) - case.onset) > 20 * case.row_step]
    near = same[(np.abs(same - case.onset) <= 20 * case.row_step) & (same != case.onset)]
    seen: list[Observation] = []
    if not near.size:
        seen.append(
            Observation(
                "data.unique",
                "its batch hash differs from those of its neighbours",
                "batch_hash",
                case.onset,
                moved=False,
            )
        )
    harmless = [s for s in elsewhere if not any(i.onset_step <= s <= i.peak_step for i in case.incidents)]
    if harmless:
        text = f"the same batch was consumed at step {harmless[0]} without an incident"
        seen.append(
            Observation("data.same_batch_harmless", text, "batch_hash", harmless[0], {"step": harmless[0]}, moved=False)
        )
    return seen


def _source(case: Case) -> list[Observation]:
    """Whether the departed rows share a source that the rows around them do not have.

    A run of rows counts from the onset on as long as the source stays the same; a mixture in which sources alternate
    at random gives runs of one or two of a source that is common elsewhere.
    """
    sources = case.labels("source")
    here = sources.at(case.onset) if sources is not None else None
    if sources is None or here is None:
        return []
    index = int(np.searchsorted(sources.step, case.onset))
    ahead = sources.value[index:] == here
    length = int(ahead.size if ahead.all() else np.argmin(ahead))
    behind = sources.value[max(0, index - 200) : index]
    share = float(np.mean(behind == here)) if behind.size else 0.0
    figure = {"rows": length, "share_before": share}
    name = plain(here, 60)
    if behind.size >= 20 and share < 0.02 and length < 0.5 * ahead.size:
        text = (
            f"{length} consecutive batches come from {name}, which supplied {number(100 * share)} % of the 200 before"
        )
        return [
            Observation("data.new_source" if length > 1 else "data.new_source_once", text, "source", case.onset, figure)
        ]
    return [
        Observation(
            "data.usual_source",
            f"{name}, as {number(100 * share)} % of the batches before",
            "source",
            case.onset,
            figure,
            moved=False,
        )
    ]


def _composition(case: Case) -> list[Observation]:
    seen: list[Observation] = []
    here = (case.onset - case.row_step, case.onset + 2 * case.row_step)
    for column, slug, what in (
        ("rare_tokens", "rare_tokens", "rare tokens in the batch"),
        ("repeated_ngram_tokens", "ngrams", "tokens in repeated n-grams"),
    ):
        d = case.departure(column, here, sign=1)
        if d is None:
            continue
        # Counts: the square root makes Poisson noise even (σ ≈ 1/2 at any level), so 2 (√a − √b) is in sigmas.
        sigmas = 2 * (max(d.value, 0.0) ** 0.5 - max(d.baseline, 0.0) ** 0.5)
        observed = f"{what}: {compared(d)}"
        if sigmas >= COUNT_SIGMAS and d.beyond > 1:
            sure = min(1.0, sigmas / SURE_SIGMAS)
            seen.append(Observation(f"data.{slug}", observed, column, d.step, figures(d), sure))
        elif sigmas < NORMAL_SIGMAS:
            seen.append(Observation(f"data.{slug}_normal", observed, column, d.step, figures(d), moved=False))
    return seen


def _sibling(case: Case) -> list[Observation]:
    """What another run made of the same batch, by its hash."""
    hashes = case.labels("batch_hash")
    here = None if hashes is None else hashes.at(case.onset)
    if case.sibling is None or here is None:
        return []
    met = [(step, case.sibling.incident_near(step, case.row_step, a)) for step, a in case.sibling.consumed(here)]
    if not met:
        return []
    step, found = next((one for one in met if one[1] is not None), met[0])
    name, figure = plain(case.sibling.run.id, 60), {"step": step}
    if found is None:
        text = f"the run {name} consumed the same batch at step {step} without an incident"
        return [Observation("data.baseline_harmless", text, "batch_hash", case.onset, figure, moved=False)]
    text = f"the run {name} consumed the same batch at step {step}, and has an incident there, too"
    return [Observation("data.baseline_harmful", text, "batch_hash", case.onset, figure)]


def _draw(ax: Axes, reading: PanelReading) -> None:
    """Rare and repeated tokens; valid labels only where a batch had none: they would flatten the others."""
    shown = {"rare_tokens", "repeated_ngram_tokens"}
    if any(0.0 in trace.value for trace in reading.traces if trace.name == "valid_labels"):
        shown = {"valid_labels"}
    chosen = tuple(trace for trace in reading.traces if trace.name in shown)
    lines(ax, replace(reading, traces=chosen or reading.traces))


PANEL = Panel(
    11,
    "data",
    "Data, per batch",
    ("rare_tokens", "valid_labels", "tokens", "repeated_ngram_tokens", "batch_hash", "source"),
    _measure,
    (
        "which batch it was, whether it repeats, and where it came from: log batch_index, batch_hash, source "
        "and valid_labels"
    ),
    unit="tokens",
    constant_is_silent=False,
    draw=_draw,
    observes=(
        "data.no_labels",
        "data.labels_valid",
        "data.repeat",
        "data.unique",
        "data.same_batch_harmless",
        "data.new_source",
        "data.new_source_once",
        "data.usual_source",
        "data.baseline_harmless",
        "data.baseline_harmful",
        "data.rare_tokens",
        "data.rare_tokens_normal",
        "data.ngrams",
        "data.ngrams_normal",
    ),
)
