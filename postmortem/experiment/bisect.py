"""Which batches did it, and which of their rows: the smallest set whose removal cures.

Delta debugging over prefixes: with the culprits found so far always removed, the shortest prefix of the window whose
removal cures ends in the next culprit. One culprit among W batches takes at most ⌈log₂ W⌉ + 2 probes, two at most twice
that. Every probe starts from a state saved just before the window, so that the way there is driven once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import cast

from postmortem.change import Change, Window, merged, shown
from postmortem.errors import UsageError
from postmortem.experiment.design import MARGIN
from postmortem.experiment.judge import NEAR, OutcomeJudge, judge_replay, last_of, reappeared, spread
from postmortem.experiment.null_replay import BAND, BLIND, examine
from postmortem.experiment.target import NULL, ExperimentTarget
from postmortem.replay.result import ReplayResult
from postmortem.replay.spec import ReplaySpec
from postmortem.sources import open_run

WINDOW = 32  # batches that are searched where nobody says which: three quarters of them before the suspect one


def smallest(count: int, cures: Callable[[frozenset[int]], bool]) -> list[int] | None:
    """The smallest set of 0 … count − 1 whose removal cures, where every superset of a cure is one; where that does not
    hold, a set that cures, of which more may be needless. None where the removal of all does not cure."""
    if not cures(frozenset(range(count))):
        return None
    found: list[int] = []  # from the last one on
    last = count
    while last > 0:
        low, high = 0, last  # removing [0, high) cures, removing [0, low) does not
        while high - low > 1:
            middle = (low + high) // 2
            if cures(frozenset(found) | frozenset(range(middle))):
                high = middle
            else:
                low = middle
        last = high - 1
        found.append(last)
        if cures(frozenset(found)):
            break
        before = last
        if found[-2:-1] == [last + 1]:  # two in a row may be a shard: then one probe tells of the next
            while last > 0 and not cures(frozenset(found) | frozenset(range(last - 1))):
                last -= 1
                found.append(last)
        if last < before and cures(frozenset(found)):
            break
    return sorted(found)


@dataclass(frozen=True)
class Culprits:
    """What was found. batches: absolute indices; rows: of the first of them, () where they were not searched. probes,
    row_probes: replays that were judged; steps: driven in all; naive_steps: had each begun at the checkpoint."""

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
    """The probes of one incident over `window`. `on_probe(name, text)` hears when one begins ("") and how it ended."""

    target: ExperimentTarget
    window: Window
    on_probe: Callable[[str, str], None] | None = None
    steps: int = 0
    naive_steps: int = 0
    _known: dict[str, bool] = field(default_factory=dict[str, bool])

    def __post_init__(self) -> None:
        incident, start = self.target.incident, self.target.from_step
        ahead = max(0, self.target.recorded.index_at(incident.onset_step) - self.window[0])
        self._lead = max(start, incident.onset_step - ahead)
        seen = last_of(incident)
        self._until = min(seen + NEAR + MARGIN + 1, max(self.target.end, incident.onset_step + MARGIN))
        self._judge = OutcomeJudge.of(self.target.run, incident, self._lead)

    def find(self, rows: int | None = None) -> Culprits:
        """The culprits; their rows, where the number of `rows` of a batch is known.

        Raises:
            UsageError: the incident does not reproduce, or skipping the whole window does not cure it.
            PostmortemError: a replay cannot be driven.
        """
        self._null()
        first, last = self.window
        found = smallest(last - first, lambda chosen: self._cures(self._skip(chosen)))
        probes = len(self._known)
        if found is None:
            raise UsageError(
                f"skipping all of {shown(self.window)} does not cure it: the batches of this window alone did not do "
                "it. Search another window with --window A:B, or test the other causes: postmortem prove"
            )
        batches = tuple(first + one for one in found)
        chosen = self._rows(batches[0], rows) if rows is not None and rows > 1 and len(batches) == 1 else ()
        named = ", ".join(shown(span) for span in merged([(one, one + 1) for one in batches]))
        named = str(batches[0]) if len(batches) == 1 else named
        text = f"batch {named} did it" if len(batches) == 1 else f"batches {named} did it together"
        if chosen:
            text += f", by its row{'s' if len(chosen) > 1 else ''} {', '.join(map(str, chosen))}"
        return Culprits(
            self.window, batches, chosen, probes, len(self._known) - probes, self.steps, self.naive_steps, text
        )

    def _null(self) -> None:
        target = self.target
        save = (self._lead,) if self._lead > target.from_step else ()
        self._say(NULL, "")
        spec = target.spec(NULL, target.from_step, self._until, save_at=save, reason="null replay")
        result, run = self._drive(spec), target.runs.run(spec.out)
        null = examine(target.incident, result, reappeared(run, target.incident), target.inside(spec.out))
        if not null.reproduces:
            raise UsageError(f"no batch can be blamed where the null replay does not show it again: {null.reason}")
        if not null.exact:  # bits cannot be had: the band is what changes of no meaning do
            noise = [self._spec(f"noise-{seed}", Change("noise", values=(seed,))) for seed in (1, 2)]
            alike = [open_run(done.spec.out) for done in target.drive(noise) if done.result is not None]
            self.steps += len(alike) * (self._until - self._lead)
            self._judge = self._judge.widened(spread([run, *alike], self._lead))
        self._judge = self._judge.measured(run)
        if not (null.found or self._judge.measurable):
            raise UsageError(BLIND)
        self._say(NULL, null.experiment.text + BAND * (not null.exact))

    def _rows(self, batch: int, rows: int) -> tuple[int, ...]:
        def cures(chosen: frozenset[int]) -> bool:
            if len(chosen) == rows:
                return True  # to leave out every row is to skip the batch, which cures
            return self._cures(Change("drop-rows", ((batch, batch + 1),), tuple(sorted(chosen))))

        found = smallest(rows, cures)
        return () if found is None or len(found) == rows else tuple(found)

    def _skip(self, chosen: Collection[int]) -> Change:
        first = self.window[0]
        return Change("skip", merged([(first + one, first + one + 1) for one in chosen]))

    def _cures(self, change: Change) -> bool:
        key = str(change)
        if key not in self._known:
            name = f"probe-{len(self._known):03d}"
            spec = self._spec(name, change)
            self._say(name, "")
            self._drive(spec)
            seen = judge_replay(self._judge, open_run(spec.out), spec.from_step)
            self._known[key] = seen.cured
            self._say(name, f"{key}: {'cured' if seen.cured else 'persists'} ({seen.text})")
        return self._known[key]

    def _spec(self, name: str, change: Change) -> ReplaySpec:
        on_null = self._lead > self.target.from_step
        return self.target.spec(name, self._lead, self._until, (change,), on_null=on_null, reason="bisect")

    def _drive(self, spec: ReplaySpec) -> ReplayResult:
        done = self.target.drive_one(spec)
        assert done.result is not None
        self.steps += spec.until - spec.from_step
        self.naive_steps += spec.until - self.target.from_step
        return done.result

    def _say(self, name: str, text: str) -> None:
        if self.on_probe is not None:
            self.on_probe(name, text)


def default_window(target: ExperimentTarget) -> Window:
    """The batches to search where nobody says which: 24 before the one of the onset, and 8 from it on, the suspect
    window of the diagnosis included; none that the checkpoint has behind it."""
    recorded, incident = target.recorded, target.incident
    at = recorded.index_at(incident.onset_step)
    first, last = max(0, at - WINDOW * 3 // 4), at + WINDOW // 4
    if incident.skip_window is not None:
        first, last = min(first, incident.skip_window[0]), max(last, incident.skip_window[1])
    return max(first, recorded.index_at(target.from_step)), last


def rows_of(target: ExperimentTarget) -> int | None:
    """The number of samples of the suspect batch, by those that the run recorded of it; None where it did not."""
    recorded = target.recorded
    for name in ("sample_ids", "token_ids"):
        labels = target.run.labels(name, attempt=recorded.attempt)
        value = None if labels is None else labels.at(target.incident.onset_step)
        if isinstance(value, (list, tuple)):
            return len(cast(Sequence[object], value))
    return None
