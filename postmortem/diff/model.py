"""Defines the records that make up a diff of two runs. `a` is the first run, `b` the second, a gap is b − a."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from postmortem.change import Window
from postmortem.diagnosis import Trace
from postmortem.incident import Occurrence
from postmortem.notebook_page import markdown
from postmortem.text import plain

SCHEMA_VERSION = 1

Verdict: TypeAlias = Literal["identical", "prefix", "equivalent", "transient", "recovered", "lingering", "different"]
Kind: TypeAlias = Literal["other_batch", "other_state", "other_config", "other_arithmetic", "log_only", "unknown"]
Group: TypeAlias = Literal["config", "code", "packages", "environment", "run"]
Form: TypeAlias = Literal["factor", "offset"]


@dataclass(frozen=True)
class Rewind:
    """One time that a run was rolled back, or continued in a new attempt.

    `step` is the first step that was trained (again), `from_step` the last step before a rollback, `parent` the id of
    the run that it continues ("" for itself). `missing` are pieces of the state that were not restored, `altered` those
    that the journal says were restored differently than requested. `skip` are the windows of batches that it skipped,
    `idle_skip` those that it was told to skip and would not have consumed anyway. `restart` is an attempt without an
    event.
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
    idle_skip: tuple[Window, ...] = ()


@dataclass(frozen=True)
class DiffIncident(Occurrence):
    """One incident of one run; `shared`: the other run has it as well; `on_loss`: the loss itself departed."""

    on_loss: bool
    shared: bool = False


@dataclass(frozen=True)
class Discarded:
    """Steps of one attempt that a later one trained again. `peak` is their largest finite loss, in nats per token."""

    attempt: int
    first_step: int
    last_step: int
    rows: int
    peak: float | None
    peak_step: int | None
    loss: Trace | None


@dataclass(frozen=True)
class LostWork:
    """What rollbacks and skips cost; of a replay, without what its parent had trained.

    `device_hours` = steps × seconds per step × world size ÷ 3,600; None where not logged. Skipped batches were never
    trained on: they cost data, but no time.
    """

    steps: int
    tokens: int | None
    device_hours: float | None
    skipped_batches: int
    skipped_tokens: int | None


@dataclass(frozen=True)
class Recovery:
    """How long it took from a rollback or an incident until the level stayed at that of the other run.

    `back_step` is None where it never did; it is exact to within the rows of one level.
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
    """One of the runs. `skipped` are the windows of batch indices that it skipped, from its journal or its rows;
    `skipped_at` are the [first, last) steps at which a rolled-back stretch, or the other run, consumed them.
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
    loss: Trace | None  # to draw: every row, or the extremes of every few rows
    smoothed: Trace | None  # medians of consecutive rows


@dataclass(frozen=True)
class Setting:
    """One key of run.json that differs; None where the run does not have the key."""

    group: Group
    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class ColumnDiff:
    """One common column over the steps that both runs have.

    Both logged it in `rows`; in `differing` of these rows the bits differ, from `first_step` to `last_step`, followed
    by `equal_after` equal rows. `only_a` and `only_b` count the steps at which only one run logged it.
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
        """Whether every bit is equal, and both logged it at the same steps."""
        return not (self.differing or self.only_a or self.only_b)


@dataclass(frozen=True)
class Relation:
    """How a column of b follows from that of a, over `rows` common rows from `from_step` through `through_step`.

    A "factor" is b ÷ a, without unit; an "offset" is b − a, in nats. `value` is its median, and nine rows in ten are
    from `low` to `high`. `before` is its median in the rows before `from_step` (1 or 0 where these are equal), None
    where there are none.
    """

    column: str
    form: Form
    value: float
    low: float
    high: float
    rows: int
    from_step: int
    through_step: int
    before: float | None


@dataclass(frozen=True)
class ModelFact:
    """Something that differs between the models, or between the runs before their first update: what, and in each run.

    `what`: the vocabulary (tokens), the groups of parameters that only one run logged, or the norm of the parameters or
    the loss in the first row (L2 norm; nats per token).
    """

    what: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Divergence:
    """The first step at which a common column differs (clocks aside), and why. `columns` are those that differ there.

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
    """Consecutive batches that both consumed: at steps [a_first, a_last] in a, and at [b_first, b_last] in b."""

    a_first: int
    a_last: int
    b_first: int
    b_last: int
    rows: int


@dataclass(frozen=True)
class Alignment:
    """The runs by the batches that they consumed, matched on (batch, occurrence). `by` names the column.

    `moved` of the `matched` batches were consumed at a different step. `only_a`, `only_b` are [first, last) windows of
    batch indices (of steps, where no index is logged) that only one run consumed; `a_alone` and `b_alone` count them.
    """

    by: Literal["batch_hash", "batch_index"]
    matched: int
    moved: int
    a_alone: int
    b_alone: int
    only_a: tuple[Window, ...]
    only_b: tuple[Window, ...]
    stretches: tuple[Stretch, ...]
    first_other: tuple[int, int] | None  # steps of a and b: the first common batch with a different loss


@dataclass(frozen=True)
class NoiseLevel:
    """The noise of a gap, in nats.

    `rows` make up a level (a median), `sigma` is the robust deviation of a level. `band` is the gap that noise alone
    reaches over all levels (where the loss is steep, its own change is allowed in addition), `end` the same for the end
    of a run. `siblings` counts the further runs whose spread around the first widened both.
    """

    rows: int
    sigma: float
    band: float
    end: float
    siblings: int


@dataclass(frozen=True)
class Gap:
    """b − a of one column, over the rows matched `by` step or by batch.

    `area` = Σ|b − a| × steps per row, in nats·steps (over batches: nats·batches); `largest` is signed, at the steps
    `largest_at` of a and b; `final` is the median over the last `final_rows`. `outside` counts the `levels` outside the
    band. Rows that are not finite in both are counted in `nonfinite` and left out.
    """

    column: str
    by: Literal["step", "batch"]
    rows: int
    nonfinite: int
    area: float
    largest: float
    largest_at: tuple[int, int]
    before: float | None  # like `final`, over the rows before something happened to only one run
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
    """The complete diff of two runs."""

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
    relations: tuple[Relation, ...]
    models: tuple[ModelFact, ...]
    columns: tuple[ColumnDiff, ...]
    columns_only_a: tuple[str, ...]
    columns_only_b: tuple[str, ...]
    cannot_tell: tuple[str, ...]

    def __repr__(self) -> str:
        first = self.divergence
        divergence = "" if first is None else f"; they diverge at step {first.step} ({first.kind.replace('_', ' ')})"
        return f"<RunsDiff of {plain(self.a.id, 50)} and {plain(self.b.id, 50)}: {self.verdict}{divergence}>"

    def _repr_markdown_(self) -> str | None:
        return markdown(self)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdict in a tuple, so that a `RunsDiff` and a `ManyRunsDiff` can be read in the same way."""
        return (self.verdict,)

    def gap(self, by: Literal["step", "batch"] = "step", column: str = "loss") -> Gap | None:
        """The gap of `column` matched `by`; None where it could not be measured."""
        return next((gap for gap in self.gaps if (gap.by, gap.column) == (by, column)), None)


@dataclass(frozen=True)
class ManyRunsDiff:
    """The diffs of the first run with each other run, in their order."""

    schema_version: int
    tool: str
    diffs: tuple[RunsDiff, ...]

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One verdict for each run except the first."""
        return tuple(d.verdict for d in self.diffs)
