"""Finds the batches that caused an incident, and their rows: the smallest set whose removal cures it.

Delta debugging over prefixes: with all known culprits removed, the shortest prefix of the window whose removal cures
ends with the next culprit. One culprit among W batches takes at most ⌈log₂ W⌉ + 2 trials, two take at most twice as
many. Every trial is a replay, and starts from a state saved just before the window, so that the steps before it are
driven once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import cast

from postmortem.change import Change, Window, format_window, merge_windows
from postmortem.errors import UsageError
from postmortem.experiment.target import NULL, ExperimentTarget
from postmortem.proof.design import MARGIN
from postmortem.proof.judge import (
    NEAR,
    OutcomeJudge,
    find_reappearance,
    judge_replay,
    last_needed_step,
    loss_spread,
)
from postmortem.proof.null_replay import BAND_NOTE, NOTHING_TO_CURE, judge_null_replay
from postmortem.replay.spec import ReplaySpec
from postmortem.run.replayed import ReplayResult
from postmortem.sources import open_run

WINDOW = 32  # batches searched by default: three quarters of them before the suspect batch


MOST_BATCHES = 10_000  # in a window: a log may have batch indices of any size


def smallest_cure(count: int, cures: Callable[[frozenset[int]], bool]) -> list[int] | None:
    """The smallest subset of 0 … count − 1 whose removal cures, provided that every superset of a cure also cures.
    Otherwise a set that cures, but that may contain more than needed. None if even removing all does not cure."""
    if not cures(frozenset(range(count))):
        return None
    culprits: list[int] = []  # in descending order
    last = count
    while last > 0:
        low, high = 0, last  # removing [0, high) cures, removing [0, low) does not
        while high - low > 1:
            middle = (low + high) // 2
            if cures(frozenset(culprits) | frozenset(range(middle))):
                high = middle
            else:
                low = middle
        last = high - 1
        culprits.append(last)
        if cures(frozenset(culprits)):
            break
        before = last
        if culprits[-2:-1] == [last + 1]:  # two in a row may be part of a shard: then one trial decides on the next
            while last > 0 and not cures(frozenset(culprits) | frozenset(range(last - 1))):
                last -= 1
                culprits.append(last)
        if last < before and cures(frozenset(culprits)):
            break
    return sorted(culprits)


@dataclass(frozen=True)
class Culprits:
    """The result. batches: absolute indices; rows: of the first batch, () if they were not searched. probes,
    row_probes: number of trials, which are judged replays; steps: driven in total; naive_steps: if every trial had
    started from the checkpoint."""

    window: Window
    batches: tuple[int, ...]
    rows: tuple[int, ...]
    probes: int
    row_probes: int
    steps: int
    naive_steps: int
    text: str


@dataclass
class BatchSearch:
    """Searches `window` for the culprits of one incident. `on_trial(name, text)` is called when a trial starts (with
    "") and when it ends."""

    target: ExperimentTarget
    window: Window
    on_trial: Callable[[str, str], None] | None = None
    steps: int = 0
    naive_steps: int = 0
    _cured_by: dict[str, bool] = field(default_factory=dict[str, bool])

    def __post_init__(self) -> None:
        if self.window[1] - self.window[0] > MOST_BATCHES:
            raise UsageError(
                f"{format_window(self.window)} has more than {MOST_BATCHES:,} batches; search a shorter window with "
                "--window A:B"
            )
        incident, start = self.target.incident, self.target.from_step
        batches_before = max(0, self.target.recorded.batch_index_at(incident.onset_step) - self.window[0])
        self._trials_start = max(start, incident.onset_step - batches_before)
        last = last_needed_step(incident)
        self._until = min(last + NEAR + MARGIN + 1, max(self.target.end, incident.onset_step + MARGIN))
        self._judge = OutcomeJudge.of(self.target.run, incident, self._trials_start)

    def find_culprits(self, rows: int | None = None) -> Culprits:
        """Find the culprits, and their rows if `rows`, the number of rows of a batch, is known.

        Raises:
            UsageError: the null replay does not reproduce the incident, or skipping the whole window does not cure it.
            PostmortemError: a replay failed.
        """
        self._judge_null_replay()
        first, last = self.window
        culprits = smallest_cure(last - first, lambda offsets: self._cures(self._skip(offsets)))
        probes = len(self._cured_by)
        if culprits is None:
            raise UsageError(
                f"skipping all of {format_window(self.window)} does not cure it: the batches of this window alone are "
                "not the cause. Search another window with --window A:B, or test other causes: postmortem prove"
            )
        batches = tuple(first + index for index in culprits)
        culprit_rows = self._find_rows(batches[0], rows) if rows is not None and rows > 1 and len(batches) == 1 else ()
        if len(batches) == 1:
            text = f"batch {batches[0]} caused it"
        else:
            windows = ", ".join(map(format_window, merge_windows([(index, index + 1) for index in batches])))
            text = f"batches {windows} caused it together"
        if culprit_rows:
            text += f", through its row{'s' if len(culprit_rows) > 1 else ''} {', '.join(map(str, culprit_rows))}"
        return Culprits(
            self.window, batches, culprit_rows, probes, len(self._cured_by) - probes, self.steps, self.naive_steps, text
        )

    def _judge_null_replay(self) -> None:
        target = self.target
        save = (self._trials_start,) if self._trials_start > target.from_step else ()
        self._notify(NULL, "")
        spec = target.spec(NULL, target.from_step, self._until, save_at=save, reason="null replay")
        result, run = self._drive(spec), target.runs.run(spec.out)
        null = judge_null_replay(
            target.incident, result, find_reappearance(run, target.incident), target.relative_path(spec.out)
        )
        if not null.reproduces:
            raise UsageError(
                f"no batch can be blamed, because the null replay does not show the incident again: {null.reason}"
            )
        if not null.exact:  # equal bits are not possible here: measure the effect of meaningless changes
            noise = [self._spec(f"noise-{seed}", Change("noise", values=(seed,))) for seed in (1, 2)]
            noise_runs = [open_run(replay.spec.out) for replay in target.drive(noise) if replay.result is not None]
            self.steps += len(noise_runs) * (self._until - self._trials_start)
            self._judge = self._judge.with_band(loss_spread([run, *noise_runs], self._trials_start))
        self._judge = self._judge.with_reference_excess(run)
        if not (null.detected or self._judge.has_reference_excess):
            raise UsageError(NOTHING_TO_CURE)
        self._notify(NULL, null.experiment.text + ("" if null.exact else BAND_NOTE))

    def _find_rows(self, batch: int, rows: int) -> tuple[int, ...]:
        def cures(chosen: frozenset[int]) -> bool:
            if len(chosen) == rows:
                return True  # leaving out every row is the same as skipping the batch, which cures
            return self._cures(Change("drop-rows", ((batch, batch + 1),), tuple(sorted(chosen))))

        culprits = smallest_cure(rows, cures)
        return () if culprits is None or len(culprits) == rows else tuple(culprits)

    def _skip(self, offsets: Collection[int]) -> Change:
        first = self.window[0]
        return Change("skip", merge_windows([(first + offset, first + offset + 1) for offset in offsets]))

    def _cures(self, change: Change) -> bool:
        text = str(change)
        if text not in self._cured_by:
            name = f"probe-{len(self._cured_by):03d}"  # the folder of a trial
            spec = self._spec(name, change)
            self._notify(name, "")
            result = self._drive(spec)
            judged = judge_replay(self._judge, open_run(spec.out), spec.from_step, nonfinite=result.nonfinite)
            self._cured_by[text] = judged.cured
            self._notify(name, f"{text}: {'cured' if judged.cured else 'persists'} ({judged.text})")
        return self._cured_by[text]

    def _spec(self, name: str, change: Change) -> ReplaySpec:
        on_null = self._trials_start > self.target.from_step
        return self.target.spec(name, self._trials_start, self._until, (change,), on_null=on_null, reason="bisect")

    def _drive(self, spec: ReplaySpec) -> ReplayResult:
        replay = self.target.drive_one(spec)
        assert replay.result is not None
        self.steps += spec.until - spec.from_step
        self.naive_steps += spec.until - self.target.from_step
        return replay.result

    def _notify(self, name: str, text: str) -> None:
        if self.on_trial is not None:
            self.on_trial(name, text)


def default_window(target: ExperimentTarget) -> Window:
    """The batches to search by default: 24 before the batch of the onset, and 8 from it on, and the suspect window of
    the diagnosis. Batches before the start checkpoint are left out."""
    recorded, incident = target.recorded, target.incident
    onset_batch = recorded.batch_index_at(incident.onset_step)
    first, last = max(0, onset_batch - WINDOW * 3 // 4), onset_batch + WINDOW // 4
    if incident.skip_window is not None:
        first, last = min(first, incident.skip_window[0]), max(last, incident.skip_window[1])
    return max(first, recorded.batch_index_at(target.from_step)), last


def count_suspect_rows(target: ExperimentTarget) -> int | None:
    """The number of samples of the suspect batch, counted in the rows that the run recorded; None if it recorded
    none."""
    recorded = target.recorded
    for name in ("sample_ids", "token_ids"):
        labels = target.run.labels(name, attempt=recorded.attempt)
        value = None if labels is None else labels.at(target.incident.onset_step)
        if isinstance(value, (list, tuple)):
            return len(cast(Sequence[object], value))
    return None
