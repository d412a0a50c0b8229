"""What a replay is told to do: one JSON document, by which it can be done again, elsewhere, or by another process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postmortem.arithmetic import Mode
from postmortem.change import Change
from postmortem.errors import UnreadableInput
from postmortem.jsonio import as_json, build_from, strict_json
from postmortem.run.manifest import read_mapping
from postmortem.text import plain


@dataclass(frozen=True)
class ReplaySpec:
    """One replay of `run` into the new run directory `out`.

    Steps [from_step, until) are driven from the checkpoint of `from_step`, or from the fresh program at step 0.
    `attempt` follows the lineage of that attempt, discarded rows included; None follows the effective history.
    `program` stands in for the one that the run names. `save_at` are steps whose state is saved. `key` tells what the
    replay was driven by (rows, program, versions), so that one of another making is not taken for it. `arithmetic` is
    that which the run recorded, as far as the machine has it, or the machine's own.
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

    def to_json(self) -> str:
        """The order as JSON."""
        return strict_json(self)

    @property
    def options(self) -> str:
        """What a further command needs to drive in the same way: " --trust", or nothing."""
        named = f" --program {self.program}" if self.program else ""
        return named + (" --trust" if self.trusted else "") + " --arithmetic native" * (self.arithmetic == "native")

    @property
    def told(self) -> dict[str, Any]:
        """What another replay needs of it: the changes, the step, and why."""
        return {"from_step": self.from_step, "changes": as_json(self.changes), "reason": self.reason}


def read_spec(file: Path) -> ReplaySpec:
    """The order in `file`.

    Raises:
        UnreadableInput: it holds none.
    """
    raw = read_mapping(file)
    try:
        return build_from(ReplaySpec, raw)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise UnreadableInput(f"is no order of a replay ({plain(error, 120)}).", file=plain(file, 1000)) from error
