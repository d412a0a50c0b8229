"""Finds the first step at which two runs differ, and what kind of difference it is.

The facts at the first differing step decide, in this order:

    log_only          the state is the same after every step, or later losses have the same bits again
    other_batch       the step consumed a different batch
    other_state       a resume at this step did not restore everything in one run
    other_config      the learning rate differs at this step, or an intervention begins at it
    other_arithmetic  every difference is tiny, and at most versions, threads or devices differ in run.json
    other_config      run.json differs in the effective config
    other_arithmetic  run.json differs in something that sums of floats depend on
    other_state       the same batch, and nothing else is known to differ
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from postmortem.diff.model import ColumnDiff, Divergence, Kind, Rewind, Setting
from postmortem.diff.pair import Pair
from postmortem.diff.settings import SUMS
from postmortem.text import number, plain

KINDS: dict[Kind, str] = {
    "other_batch": "different batch",
    "other_state": "same batch, different state",
    "other_config": "different config",
    "other_arithmetic": "different arithmetic only",
    "log_only": "log only",
    "unknown": "unknown",
}
TINY = 1e-5  # relative: some ulps of float32, summed up over one step
LATER_ROWS = 10  # equal losses after the last different one, to call the training the same
_BATCH = ("batch_index", "source", "sample_ids", "tokens", "valid_labels", "token_ids")
_STATE = ("param_hash", "param_hash_part")

BatchIs = Literal["same", "other", "unknown"]
StateIs = Literal["equal", "unknown"]


def find_divergence(
    pair: Pair,
    columns: Sequence[ColumnDiff],
    settings: Sequence[Setting],
    rewinds: Sequence[tuple[str, Rewind]],
) -> Divergence | None:
    """Where the runs diverge; None where no common column differs. `rewinds` are (letter, rewind) of only one run."""
    firsts = {c.name: c.first_step for c in columns if c.first_step is not None}
    if not firsts:
        return None
    step = min(firsts.values())
    differing = tuple(name for name, first in firsts.items() if first == step)
    batch, state = _batch(pair, step, differing), _state(pair, columns, step)
    kind, text = _kind(pair, step, differing, columns, settings, rewinds, batch)
    text += "; the parameters before it are equal" * (state == "equal")
    return Divergence(step, kind, differing, batch, state, text)


def _kind(
    pair: Pair,
    step: int,
    differing: Sequence[str],
    columns: Sequence[ColumnDiff],
    settings: Sequence[Setting],
    rewinds: Sequence[tuple[str, Rewind]],
    batch: BatchIs,
) -> tuple[Kind, str]:
    log_only = _log_only(pair, columns)
    if log_only:
        return "log_only", log_only
    if batch == "other":
        return "other_batch", f"the batch differs ({_batches(pair, step)})"
    at_step = [(letter, rewind) for letter, rewind in rewinds if rewind.step == step]
    for letter, rewind in at_step:
        if rewind.missing:
            return "other_state", f"{letter} resumed here without its {', '.join(rewind.missing)}"
    for letter, rewind in at_step:
        if rewind.changes or rewind.altered:
            return "other_config", f"{letter} continues from here with {', '.join((*rewind.changes, *rewind.altered))}"
    if "lr" in differing:
        return "other_config", f"the learning rate differs ({_values(pair, 'lr', step)})"
    config = [s.key for s in settings if s.group == "config" or s.key in ("seed", "program")]
    around = [s.key for s in settings if s.group in ("environment", "packages", "run") and _changes_sums(s)]
    share = _largest_share(pair, differing, step)
    differ = f"{_columns(differing)} {'differs' if len(differing) == 1 else 'differ'}"
    if share is not None and share <= TINY and (around or not config):
        reason = f"run.json differs in {_columns(around)}" if around else "nothing else is known to differ"
        return "other_arithmetic", f"{differ} by at most {number(share)} (relative); {reason}"
    run_json = f"; run.json differs in {_columns(config or around)}" if config or around else ""
    if batch == "unknown":
        return "unknown", f"{differ}, and the logs have no hash of the batches{run_json}"
    kind: Kind = "other_config" if config else "other_arithmetic" if around else "other_state"
    return kind, f"{differ} on the same batch{run_json}"


def _changes_sums(setting: Setting) -> bool:
    """Whether a setting can change sums of floats. Old runs have no fingerprint: its absence proves nothing."""
    comparable = setting.key != "fingerprint" or None not in (setting.a, setting.b)
    return comparable and setting.key in SUMS


def _log_only(pair: Pair, columns: Sequence[ColumnDiff]) -> str:
    """Why the training is the same although the logs differ; "" where it is not, or where nothing shows it."""
    by_name = {c.name: c for c in columns}
    differing = [c.name for c in columns if c.differing]
    state = next((by_name[name] for name in _STATE if name in by_name), None)
    if state is not None:
        hashed = min((int(labels.step[-1]) for run in pair.runs if (labels := run.labels(state.name))), default=-1)
        same = not state.differing and all(c.last_step is None or c.last_step <= hashed for c in columns)
        return f"the logs differ in {_columns(differing)}, but nowhere in {state.name}" if same else ""
    loss = by_name.get("loss")
    if loss is None or loss.equal_after < LATER_ROWS or loss.rows == loss.differing:
        return ""
    later = [c for c in columns if c.differing and c.name != "loss" and c.equal_after < LATER_ROWS]
    return "" if later else f"the logs differ in {_columns(differing)}; later losses have the same bits again"


def _batch(pair: Pair, step: int, differing: Sequence[str]) -> BatchIs:
    if "batch_hash" in differing:
        return "other"
    if all("batch_hash" in run.columns for run in pair.runs) and pair.comparable("batch"):
        hashes = [labels.at(step) if (labels := run.labels("batch_hash")) is not None else None for run in pair.runs]
        if None not in hashes:
            return "same"
    return "other" if any(name in differing for name in _BATCH) else "unknown"


def _state(pair: Pair, columns: Sequence[ColumnDiff], step: int) -> StateIs:
    """Whether the state before `step` was the same: the row before has a state hash, and no earlier column differs."""
    name = next((c.name for c in columns if c.name in _STATE), None)
    before = int(np.searchsorted(pair.steps, step)) - 1
    if name is None or before < 0 or pair.steps[before] != step - 1:
        return "unknown"
    hashes = [labels.at(step - 1) if (labels := run.labels(name)) is not None else None for run in pair.runs]
    return "unknown" if None in hashes else "equal"


def _largest_share(pair: Pair, names: Sequence[str], step: int) -> float | None:
    """The largest relative difference among those of the columns that are numeric; None where no column is."""
    shares: list[float] = []
    for name in names:
        a, b = ((series.at(step) if (series := run.series(name)) is not None else None) for run in pair.runs)
        if a is not None and b is not None:
            size = max(abs(a), abs(b))
            shares.append(abs(b - a) / size if np.isfinite(size) and size else np.inf)
    return max(shares) if shares else None


def _batches(pair: Pair, step: int) -> str:
    index = [series.at(step) if (series := run.series("batch_index")) is not None else None for run in pair.runs]
    if None not in index and index[0] != index[1]:
        return f"index {number(index[0])} in a, {number(index[1])} in b"
    for name in ("batch_hash", "source"):
        values = [labels.at(step) if (labels := run.labels(name)) is not None else None for run in pair.runs]
        if None not in values and values[0] != values[1]:
            return f"{name} {plain(values[0], 12)} in a, {plain(values[1], 12)} in b"
    return "its token counts differ"


def _values(pair: Pair, name: str, step: int) -> str:
    a, b = (series.at(step) if (series := run.series(name)) is not None else None for run in pair.runs)
    return f"{number(a)} in a, {number(b)} in b"


def _columns(names: Sequence[str], max_items: int = 3) -> str:
    shown = ", ".join(plain(name, 40) for name in names[:max_items])
    return shown + (f" and {len(names) - max_items} more" if len(names) > max_items else "")
