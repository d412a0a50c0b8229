"""The spec of a replay: one JSON document, from which any process on any machine can drive the same replay."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from postmortem.arithmetic import Mode
from postmortem.change import Change
from postmortem.jsonio import as_json, read_record, strict_json
from postmortem.replay.trust import NamedProgram


@dataclass(frozen=True)
class ReplaySpec:
    """One replay of `run` into the new run directory `out`.

    Steps [from_step, until) are driven from the checkpoint of `from_step`, or from the fresh program at step 0.
    `attempt` follows the lineage of that attempt, discarded rows included; None follows the effective history.
    `program` replaces the program that the run names. `save_at` are steps whose state is saved. `key` is a hash of what
    the result depends on (rows, program, versions): a result with another key is not reused. `arithmetic` says whether
    to compute as the run did, as far as the machine can, or with the machine's own kernels. `announced` is the program
    as the user was told that it would be imported; it goes to the processes that this one starts and into no run.
    """

    run: str
    out: str
    from_step: int
    until: int
    changes: tuple[Change, ...] = ()
    attempt: int | None = None
    program: str | None = None
    checkpoint: str | None = None
    save_at: tuple[int, ...] = ()
    reason: str = ""
    trusted: bool = False
    key: str = ""
    arithmetic: Mode = "recorded"
    announced: NamedProgram | None = field(default=None, compare=False)

    def to_json(self) -> str:
        """The spec as JSON, to keep: without what was announced, which a file cannot say for its reader."""
        return strict_json({name: value for name, value in as_json(self).items() if name != "announced"})

    def for_child(self) -> str:
        """The spec as JSON for a process that this one starts."""
        return strict_json(self)

    @property
    def options(self) -> str:
        """Options with which another command drives replays in the same way: " --trust", or nothing."""
        options = f" --program {self.program}" if self.program else ""
        return options + (" --trust" if self.trusted else "") + " --arithmetic native" * (self.arithmetic == "native")


def read_spec(file: Path) -> ReplaySpec:
    """The spec in `file`.

    Raises:
        UnreadableInput: the file contains no spec.
    """
    return read_record(ReplaySpec, file, "the spec of a replay")
