"""The checkpoint policy: how often each role is saved, and how many of its checkpoints stay."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

from postmortem.errors import UnreadableInput, UsageError
from postmortem.small_file import parse_toml, parse_yaml, read_text
from postmortem.text import plain

_METRIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,63}")
_RETENTION = ("rollback_keep", "recovery_keep")


@dataclass(frozen=True)
class Policy:
    """Three cadences. A cadence or `best_k` of 0 switches the role off.

    rollback_every, recovery_every: steps between two checkpoints of the role.
    best_k: how many checkpoints stay, ranked by the metric `best_k_metric`; `best_k_direction` says how.
    rollback_keep, recovery_keep: how many of the newest stay.
    rollback_contents: "full" state, or "parameters" only, which are a third of it with Adam. Going back to a checkpoint
        of parameters *is* an optimizer reset, and every message about it says so.

    Raises:
        UsageError: a value that is not possible; the message names its key.
    """

    rollback_every: int = 100
    recovery_every: int = 1000
    best_k: int = 3
    best_k_metric: str = "dev_loss"
    best_k_direction: Literal["minimize", "maximize"] = "minimize"
    rollback_keep: int = 5
    recovery_keep: int = 3
    rollback_contents: Literal["full", "parameters"] = "full"

    def __post_init__(self) -> None:
        for name, least in (
            *(("rollback_every", 0), ("recovery_every", 0), ("best_k", 0)),
            *(("rollback_keep", 1), ("recovery_keep", 1)),
        ):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise UsageError(f"{name}: expected a whole number from {least} on, not {plain(value, 40)!r}")
        _one_of("best_k_direction", self.best_k_direction, ("minimize", "maximize"))
        _one_of("rollback_contents", self.rollback_contents, ("full", "parameters"))
        if not isinstance(cast(object, self.best_k_metric), str) or not _METRIC.fullmatch(self.best_k_metric):
            raise UsageError(
                f"best_k_metric: {plain(self.best_k_metric, 80)!r} is not a valid metric name. It becomes part of a "
                "directory name: use at most 64 letters, digits and _ . / -"
            )

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> Policy:
        """The policy of `{"checkpoint": {…, "retention": {…}}}`, or of that inner mapping; other top keys are ignored.

        Raises:
            UsageError: an unknown key, or a value of the wrong kind, by name.
        """
        section = _mapping("checkpoint", config.get("checkpoint", config))
        settings = {key: value for key, value in section.items() if key != "retention"}
        retention = _mapping("retention", section.get("retention", {}))
        names = [field.name for field in fields(cls)]
        for prefix, keys, allowed in (
            ("checkpoint", settings, [name for name in names if name not in _RETENTION]),
            ("checkpoint.retention", retention, list(_RETENTION)),
        ):
            for key in keys:
                if key not in allowed:
                    raise UsageError(f"{prefix}: unknown key {plain(key, 80)!r}; the keys are {', '.join(allowed)}")
        return cls(**settings, **retention)

    @classmethod
    def from_file(cls, path: str | Path) -> Policy:
        """The policy in a file, see `from_mapping`: TOML if it ends in .toml, else YAML (JSON is YAML, too).

        Raises:
            UnreadableInput: the file cannot be read as that.
            UsageError: it holds no mapping, or as `from_mapping`.
        """
        path = Path(path)
        kind, parse = ("TOML", parse_toml) if path.suffix.lower() == ".toml" else ("YAML", parse_yaml)
        try:
            config: object = parse(read_text(path))
        except (OSError, ValueError) as error:
            raise UnreadableInput(f"cannot be read as {kind} ({plain(error, 120)}).", file=plain(path, 1000)) from error
        return cls.from_mapping(_mapping(plain(path, 200), config))

    def due(self, step: int) -> tuple[str, ...]:
        """The roles that are saved after `step` updates, "recovery" first."""
        cadences = (("recovery", self.recovery_every), ("rollback", self.rollback_every))
        return tuple(role for role, every in cadences if every and step > 0 and step % every == 0)

    def keep(self, role: str) -> int:
        """How many checkpoints of a role stay."""
        return {"rollback": self.rollback_keep, "recovery": self.recovery_keep}.get(role, self.best_k)

    def contents(self, role: str) -> Literal["full", "parameters"]:
        """What a checkpoint of a role contains."""
        if role == "rollback":
            return self.rollback_contents
        return "full" if role == "recovery" else "parameters"

    def better(self, value: float) -> float:
        """`value` of the metric, negated if the metric is maximized: less is better."""
        return value if self.best_k_direction == "minimize" else -value

    def best_name(self, step: int, value: float) -> str:
        """Directory name of a best-K checkpoint: `dev-loss-2.341-step-00450000.dcp`."""
        metric = re.sub(r"[_/]", "-", self.best_k_metric)
        shown = f"{value:.3f}" if math.fabs(value) < 1e9 else f"{value:.3e}"
        return f"{metric}-{shown}-step-{step:08d}.dcp"


def _one_of(key: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{key}: expected {' or '.join(allowed)}, not {plain(value, 40)!r}")


def _mapping(where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where}: expected keys and values, not {plain(value, 40)!r}")
    return {str(key): inner for key, inner in cast(Mapping[object, Any], value).items()}
