"""What is said of two runs, as frozen records. `a` is the first run, `b` the second, a gap is b − a."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from postmortem.change import Window
from postmortem.diagnosis import Trace
from postmortem.display import markdown
from postmortem.incident import Occurrence
from postmortem.text import plain

SCHEMA_VERSION = 1

Verdict: TypeAlias = Literal["identical", "equivalent", "recovered", "lingering", "different"]
Kind: TypeAlias = Literal["other_batch", "other_state", "other_config", "other_arithmetic", "log_only", "unknown"]
Group: TypeAlias = Literal["config", "code", "packages", "environment", "run"]


@dataclass(frozen=True)
class Rewind:
    """One time that a run went back, or went on in a new attempt.

    `step` is the first step that was done (again), `from_step` the last one before a rollback, `parent` the id of the
    run that it went on from ("" for itself). `missing` are pieces of the state that did not come back, `altered` what
    the journal says came back otherwise than it was asked. `restart` is an attempt that no event tells of.
    """

    kind: Literal["rollback", "resume", "restart"]
    step: int
    attempt: int | None = None
    from_step: int | None = None
    parent: str = ""
    skip: tuple[Window, ...] = ()
    changes: tuple[str, ...] = ()
    reason: str = ""
    missing: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()


@dataclass(frozen=True)
class DiffIncident(Occurrence):
    """One incident of one run; `shared` where the other run has it, too; `on_loss` where the loss itself departed."""

    on_loss: bool
    shared: bool = False


@dataclass(frozen=True)
class Discarded:
    """Steps of one attempt that a later one did again. `peak` is their largest finite loss, in nats per token."""

    attempt: int
    first_step: int
    last_step: int
    rows: int
    peak: float | None
    peak_step: int | None
    loss: Trace | None


@dataclass(frozen=True)
class LostWork:
    """What rolling back and skipping took. `device_hours` = steps × seconds a step × world size ÷ 3,600; None where
    not logged. Skipped batches were never trained on: they cost data, and no time.
    """

    steps: int
    tokens: int | None
    device_hours: float | None
    skipped_batches: int
    skipped_tokens: int | None


@dataclass(frozen=True)
class Recovery:
    """How long it took, from a rollback's or incident's step, until the level was the other run's for good.

    `back_step` is None where it never was; it is known to within the rows of one level.
    """

    what: Literal["rollback", "incident"]
    from_step: int
    back_step: int | None
    hours: float | None


@dataclass(frozen=True)
class ChangedSetting:
    """A setting that changed within a run: `config_change` and `environment_change` events of its journal."""

    step: int | None
    key: str
    old: Any
    new: Any


@dataclass(frozen=True)
class RunSummary:
    """One of the runs. `skipped` are the batch indices that it went past, as its journal says or its rows show, and
    `skipped_at` the [first, last) steps at which a stretch that it discarded, or the other run, consumed them.
    """

    id: str
    source: str
    rows: int
    first_step: int | None
    last_step: int | None
    row_step: int
    seed: int | None
    attempts: int
    rewinds: tuple[Rewind, ...]
    skipped: tuple[Window, ...]
    skipped_at: tuple[Window, ...]
    moved: tuple[ChangedSetting, ...]
    incidents: tuple[DiffIncident, ...]
    discarded: tuple[Discarded, ...]
    lost: LostWork
    recoveries: tuple[Recovery, ...]
    nonfinite_losses: int
    loss: Trace | None  # to be drawn: every row, or the extremes of each few
    smoothed: Trace | None  # medians of consecutive rows


@dataclass(frozen=True)
class Setting:
    """One key of run.json that differs; None is a key that the run does not have."""

    group: Group
    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class ColumnDiff:
    """One common column over the steps that both runs have.

    `rows` logged it in both, `differing` of them with other bits, between `first_step` and `last_step`; `equal_after`
    rows follow with equal ones. `only_a` and `only_b` count steps of which one run alone logged it.
    """

    name: str
    rows: int
    differing: int
    first_step: int | None
    last_step: int | None
    equal_after: int
    only_a: int
    only_b: int

    @property
    def equal(self) -> bool:
        """Every bit, and logged at the same steps."""
        return not (self.differing or self.only_a or self.only_b)


@dataclass(frozen=True)
class Divergence:
    """The first step at which any common column but the clocks differs, and why. `columns` are those that do there.

    `batch`: whether that step consumed the same batch; `state`: whether the state before it was the same.
    """

    step: int
    kind: Kind
    columns: tuple[str, ...]
    batch: Literal["same", "other", "unknown"]
    state: Literal["equal", "unknown"]
    text: str


@dataclass(frozen=True)
class Stretch:
    """Consecutive batches that both consumed: at steps [a_first, a_last] of a, and as many steps on in b."""

    a_first: int
    a_last: int
    b_first: int
    b_last: int
    rows: int


@dataclass(frozen=True)
class Alignment:
    """The runs by the batches that they consumed, matched on (batch, occurrence). `by` names the column.

    `moved` of the `matched` batches were consumed at another step. `only_a`, `only_b` are [first, last) windows of
    batch indices (of steps, where no index is logged) that one run alone consumed; `a_alone` and `b_alone` count them.
    """

    by: Literal["batch_hash", "batch_index"]
    matched: int
    moved: int
    a_alone: int
    b_alone: int
    only_a: tuple[Window, ...]
    only_b: tuple[Window, ...]
    stretches: tuple[Stretch, ...]
    first_other: tuple[int, int] | None  # steps of a and b: the first batch that both consumed with another loss


@dataclass(frozen=True)
class NoiseLevel:
    """The noise of a gap, in nats. `rows` make a level (a median), `sigma` is the robust deviation of one; `band` is
    what all levels together reach by noise (where the loss is steep, its own pace is allowed besides), `end` what the
    end of a run may. `siblings` counts the further runs whose
    spread about the first widened both.
    """

    rows: int
    sigma: float
    band: float
    end: float
    siblings: int


@dataclass(frozen=True)
class Gap:
    """b − a of one column, over the rows matched `by` step or by batch.

    `area` = Σ|b − a| × steps a row, in nats·steps (over batches: nats·batches); `largest` is signed, at the steps
    `largest_at` of a and b; `final` is the median over the last `final_rows`. `outside` of the `levels` leave the band.
    Rows that are not finite in both are counted in `nonfinite` and left out.
    """

    column: str
    by: Literal["step", "batch"]
    rows: int
    nonfinite: int
    area: float
    largest: float
    largest_at: tuple[int, int]
    before: float | None  # as `final`, over the rows before anything happened to one run alone
    before_noise: float
    final: float
    final_rows: int
    levels: int
    outside: int
    noise: NoiseLevel
    level: Trace
    band: tuple[float, ...] = field(repr=False)  # half width at each point of `level`


@dataclass(frozen=True)
class RunsDiff:
    """Everything that is said of two runs."""

    schema_version: int
    tool: str
    verdict: Verdict
    reason: str
    top_lines: tuple[str, ...]
    a: RunSummary
    b: RunSummary
    settings: tuple[Setting, ...]
    divergence: Divergence | None
    alignment: Alignment | None
    gaps: tuple[Gap, ...]
    columns: tuple[ColumnDiff, ...]
    columns_only_a: tuple[str, ...]
    columns_only_b: tuple[str, ...]
    cannot_tell: tuple[str, ...]

    def __repr__(self) -> str:
        parting = self.divergence
        where = "" if parting is None else f"; they part at step {parting.step} ({parting.kind.replace('_', ' ')})"
        return f"<RunsDiff of {plain(self.a.id, 50)} and {plain(self.b.id, 50)}: {self.verdict}{where}>"

    def _repr_markdown_(self) -> str | None:
        return markdown(self)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """As `ManyRunsDiff.verdicts`: of the one run that was held against the other."""
        return (self.verdict,)

    def gap(self, by: Literal["step", "batch"] = "step", column: str = "loss") -> Gap | None:
        """One of `gaps`; None where it could not be measured."""
        return next((gap for gap in self.gaps if (gap.by, gap.column) == (by, column)), None)


@dataclass(frozen=True)
class ManyRunsDiff:
    """Diffs of one run with each of the others, in their order."""

    schema_version: int
    tool: str
    diffs: tuple[RunsDiff, ...]

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One for each run but the first."""
        return tuple(d.verdict for d in self.diffs)
