"""The first step at which two runs differ, and what kind of difference it is.

What is known at the first differing step decides, in this order:

    log only          the state is the same after every step, or later losses have the same bits again
    other batch       the step consumed another batch
    other state       a resume at this step brought back less in one run
    other config      the learning rate differs at this step, or an intervention begins at it
    other arithmetic  every difference is tiny, and only versions, threads or devices differ in run.json, if anything
    other config      run.json differs in the effective config
    other arithmetic  run.json differs in what sums of floats depend on
    other state       the same batch, nothing else known to differ
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
    "other_batch": "other batch",
    "other_state": "same batch, other state",
    "other_config": "other config",
    "other_arithmetic": "other arithmetic only",
    "log_only": "log only",
    "unknown": "not known",
}
TINY = 1e-5  # relative: some ulps of float32, summed up over one step
LATER_ROWS = 10  # equal losses after the last other one, for the training to have been the same
_BATCH = ("batch_index", "source", "sample_ids", "tokens", "valid_labels", "token_ids")
_STATE = ("param_hash", "param_hash_part")

BatchIs = Literal["same", "other", "unknown"]
StateIs = Literal["equal", "unknown"]


def divergence(
    pair: Pair,
    columns: Sequence[ColumnDiff],
    settings: Sequence[Setting],
    rewinds: Sequence[tuple[str, Rewind]],
) -> Divergence | None:
    """Where the runs part; None where no common column differs. `rewinds` are (letter, rewind) of one run alone."""
    firsts = {c.name: c.first_step for c in columns if c.first_step is not None}
    if not firsts:
        return None
    step = min(firsts.values())
    here = tuple(name for name, first in firsts.items() if first == step)
    batch, state = _batch(pair, step, here), _state(pair, columns, step)
    kind, why = _kind(pair, step, here, columns, settings, rewinds, batch)
    return Divergence(step, kind, here, batch, state, why + "; the parameters before it are equal" * (state == "equal"))


def _kind(
    pair: Pair,
    step: int,
    here: Sequence[str],
    columns: Sequence[ColumnDiff],
    settings: Sequence[Setting],
    rewinds: Sequence[tuple[str, Rewind]],
    batch: BatchIs,
) -> tuple[Kind, str]:
    only = _log_only(pair, columns)
    if only:
        return "log_only", only
    if batch == "other":
        return "other_batch", f"the batch is another one ({_batches(pair, step)})"
    at = [(who, rewind) for who, rewind in rewinds if rewind.step == step]
    for who, rewind in at:
        if rewind.missing:
            return "other_state", f"{who} resumed here without its {', '.join(rewind.missing)}"
    for who, rewind in at:
        if rewind.changes or rewind.altered:
            return "other_config", f"{who} goes on from here with {', '.join((*rewind.changes, *rewind.altered))}"
    if "lr" in here:
        return "other_config", f"the learning rate is another one ({_values(pair, 'lr', step)})"
    config = [s.key for s in settings if s.group == "config" or s.key in ("seed", "program")]
    around = [s.key for s in settings if s.group in ("environment", "packages", "run") and _tells(s)]
    share = _largest_share(pair, here, step)
    if share is not None and share <= TINY and (around or not config):
        because = f"run.json differs in {_columns(around)}" if around else "nothing else is known to differ"
        return "other_arithmetic", f"by at most {number(share)} of their size in {_columns(here)}; {because}"
    told = f"; run.json differs in {_columns(config or around)}" if config or around else ""
    if batch == "unknown":
        return "unknown", f"in {_columns(here)}, and the logs hold no hash of the batches{told}"
    kind: Kind = "other_config" if config else "other_arithmetic" if around else "other_state"
    return kind, f"in {_columns(here)}, on the same batch{told}"


def _tells(setting: Setting) -> bool:
    """Whether a setting accounts for other sums. Runs of before fingerprints have none, which says nothing."""
    known = setting.key != "fingerprint" or None not in (setting.a, setting.b)
    return known and setting.key in SUMS


def _log_only(pair: Pair, columns: Sequence[ColumnDiff]) -> str:
    """Why the training is the same although the logs differ; "" where it is not, or where nothing says so."""
    known = {c.name: c for c in columns}
    differing = [c.name for c in columns if c.differing]
    state = next((known[name] for name in _STATE if name in known), None)
    if state is not None:
        hashed = min((int(labels.step[-1]) for run in pair.runs if (labels := run.labels(state.name))), default=-1)
        told = not state.differing and all(c.last_step is None or c.last_step <= hashed for c in columns)
        return f"the logs differ in {_columns(differing)}, and nowhere in {state.name}" if told else ""
    loss = known.get("loss")
    if loss is None or loss.equal_after < LATER_ROWS or loss.rows == loss.differing:
        return ""
    later = [c for c in columns if c.differing and c.name != "loss" and c.equal_after < LATER_ROWS]
    return "" if later else f"the logs differ in {_columns(differing)}; later losses have the same bits again"


def _batch(pair: Pair, step: int, here: Sequence[str]) -> BatchIs:
    if "batch_hash" in here:
        return "other"
    if all("batch_hash" in run.columns for run in pair.runs) and pair.comparable("batch"):
        hashes = [labels.at(step) if (labels := run.labels("batch_hash")) is not None else None for run in pair.runs]
        if None not in hashes:
            return "same"
    return "other" if any(name in here for name in _BATCH) else "unknown"


def _state(pair: Pair, columns: Sequence[ColumnDiff], step: int) -> StateIs:
    """Whether the state before `step` was the same, by the hash of the row before: it differs nowhere earlier."""
    name = next((c.name for c in columns if c.name in _STATE), None)
    before = int(np.searchsorted(pair.steps, step)) - 1
    if name is None or before < 0 or pair.steps[before] != step - 1:
        return "unknown"
    hashes = [labels.at(step - 1) if (labels := run.labels(name)) is not None else None for run in pair.runs]
    return "unknown" if None in hashes else "equal"


def _largest_share(pair: Pair, here: Sequence[str], step: int) -> float | None:
    """The largest relative difference among the columns of numbers; None where there is none."""
    shares: list[float] = []
    for name in here:
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
        held = [labels.at(step) if (labels := run.labels(name)) is not None else None for run in pair.runs]
        if None not in held and held[0] != held[1]:
            return f"{name} {plain(held[0], 12)} in a, {plain(held[1], 12)} in b"
    return "by its counts of tokens"


def _values(pair: Pair, name: str, step: int) -> str:
    a, b = (series.at(step) if (series := run.series(name)) is not None else None for run in pair.runs)
    return f"{number(a)} in a, {number(b)} in b"


def _columns(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(plain(name, 40) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
