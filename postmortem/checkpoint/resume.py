"""Resuming: which checkpoint is taken, and what it restored, left out and changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from torch import Tensor

from postmortem.checkpoint import inspection
from postmortem.checkpoint.retention import CheckpointFolders, StoredCheckpoint, read_stored
from postmortem.errors import UnreadableInput, UsageError
from postmortem.text import plain

Changes: TypeAlias = Mapping[str, tuple[Any, Any]]
_SETTINGS = frozenset(
    {"T_0", "T_max", "T_mult", "base_lrs", "base_momentums", "cooldown", "end_factor", "eta_min", "factor", "gamma"}
    | {"max_lrs", "milestones", "min_lrs", "mode", "patience", "power", "start_factor", "step_size", "threshold"}
    | {"total_iters", "total_steps", "backoff_factor", "growth_factor", "growth_interval"}
)
"""Keys in the state of torch's schedulers and GradScaler that are configuration, not progress."""
_OF_SCHEDULERS = frozenset({"initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"})
_SHOWN = 6


@dataclass(frozen=True)
class Resumed:
    """What a resume did.

    step: number of updates done in the restored state, which is the number of the next step. restored: the sections, or
    the requested parts, that were restored. missing: parts of the program's state that the checkpoint does not have;
    they are as they were built. unused: sections that the program does not have. changed: setting → (value that the
    program was built with, value that it continues with). saved_world_size, world_size: number of ranks then and now.
    """

    step: int
    path: Path
    role: str
    contents: Literal["full", "parameters"]
    restored: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    changed: Changes
    saved_world_size: int
    world_size: int

    @property
    def optimizer_reset(self) -> bool:
        """Whether the checkpoint has only parameters, so that the optimizer starts without moments."""
        return self.contents == "parameters"

    def summary(self) -> str:
        """A text of a few lines: the step, the checkpoint, and all that was not restored or has changed."""
        lines = [f"resumed from step {self.step}", f"checkpoint: {self.path.parent.name}/{self.path.name}"]
        lines.append(f"restored: {', '.join(self.restored)}")
        if self.optimizer_reset:
            lines.append("optimizer: RESET, the checkpoint has only parameters")
        if self.missing:
            lines.append(f"not restored, still as built: {first_names(self.missing)}")
        if self.unused:
            lines.append(f"in the checkpoint, but not in this program: {first_names(self.unused)}")
        for key, (built, effective) in self.changed.items():
            lines.append(f"{key}: built with {plain(built, 80)}, continues with {plain(effective, 80)}")
        if self.world_size != self.saved_world_size:
            lines.append(f"ranks: saved by {self.saved_world_size}, resumed by {self.world_size}")
        return "\n".join(lines)


def first_names(names: Sequence[str]) -> str:
    """The first few of `names`, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return plain(", ".join(names[:_SHOWN]), 400) + more


def choose_checkpoint(
    folders: CheckpointFolders, verify: bool
) -> tuple[StoredCheckpoint | None, list[tuple[Path, str]]]:
    """(the newest sound and finite checkpoint of the effective history, refused ones with the reasons). Full
    checkpoints come first, recovery before rollback at the same step; one of parameters only is taken if there is no
    full one."""
    refused: list[tuple[Path, str]] = []
    entries: list[StoredCheckpoint] = []
    for path in folders.paths("rollback", "recovery"):
        try:
            entries.append(read_stored(path))
        except UnreadableInput as error:
            refused.append((path, str(error)))
    entries.sort(key=lambda e: (e.manifest.contents == "full", e.step, e.role == "recovery"), reverse=True)
    for entry in entries:
        if entry.in_history:
            reason = find_problem(entry.path, verify)
            if reason is None:
                return entry, refused
            refused.append((entry.path, reason))
    return None, refused


def find_problem(path: Path, deep: bool, *, allow_nonfinite: bool = False) -> str | None:
    """What is wrong with a checkpoint, or None; `deep` reads every byte of it. Without, what its save recorded says
    whether it is finite."""
    try:
        inspection.require_sound(path, deep=deep, allow_nonfinite=allow_nonfinite)
    except UnreadableInput as error:
        return str(error)
    return None


def missing_parts(expected: Mapping[str, Any], loaded: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of what is in `expected` and not in `loaded`: the section, where all of it is missing."""
    for key, value in expected.items():
        if key not in loaded:
            yield f"{prefix}{key}"
        elif isinstance(value, Mapping) and isinstance(loaded[key], Mapping):
            yield from missing_parts(cast(Mapping[str, Any], value), loaded[key], f"{prefix}{key}.")


def check_model(path: Path, state: Mapping[str, Any], loaded: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of a different model: a resume that silently keeps fresh parameters is no resume.

    Raises:
        UsageError: parameters are missing, too many, or of another shape.
    """
    expected: Mapping[str, Any] = state.get("model", {})
    stored: Mapping[str, Any] = loaded.get("model", {})
    shapes = [
        f"{name} ({tuple(value.shape)} in this model, {tuple(stored[name].shape)} in the checkpoint)"
        for name, value in expected.items()
        if isinstance(value, Tensor) and isinstance(stored.get(name), Tensor) and value.shape != stored[name].shape
    ]
    for problem, names in (
        ("the checkpoint does not have", list(missing_parts(expected, stored))),
        ("this model does not have", list(missing_parts(stored, expected))),
        ("these parameters have another shape:", shapes),
    ):
        if names:
            raise UsageError(
                f"{plain(path, 1000)}: its model is not this one: {problem} {first_names(names)}. Build the model that "
                "was saved, or name the parts to restore"
            )


def check_optimizers(path: Path, state: Mapping[str, Any], loaded: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of a different kind of optimizer: torch would load its groups, and continue with moments of
    another meaning. Between versions, the groups of one kind may gain or lose settings, but not both.

    Raises:
        UsageError: both have settings that the other does not have.
    """
    for section, stored in loaded.items():
        stored_keys, own_keys = _group_keys(stored), _group_keys(state.get(section))
        if stored_keys - own_keys and own_keys - stored_keys:
            raise UsageError(
                f"{plain(path, 1000)}: its {plain(section, 60)} is not this one: it has "
                f"{first_names(sorted(stored_keys - own_keys))}, and this one has "
                f"{first_names(sorted(own_keys - stored_keys))}. Build the one that was saved, or name the parts to "
                "restore"
            )


def _group_keys(section: Any) -> set[str]:
    """Names of the settings in an optimizer's groups, except those that schedulers add."""
    groups = cast(Mapping[str, Any], section).get("param_groups") if isinstance(section, Mapping) else None
    keys = [set(cast(dict[str, Any], group)) for group in cast(list[Any], groups or []) if isinstance(group, dict)]
    return set[str]().union(*keys) - _OF_SCHEDULERS if isinstance(groups, list) else set()


def settings_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """Setting → value, for the configuration in a state: optimizers' groups, schedulers, the scaler.

    The learning rate of a group under a scheduler is progress; its `initial_lr` is the setting.
    """
    settings: dict[str, Any] = {}
    for section, content in state.items():
        if not isinstance(content, Mapping):
            continue
        for key, value in cast(Mapping[str, Any], content).items():
            if key in _SETTINGS:
                settings[f"{section}.{key}"] = _copied_setting(value)
            if key == "param_groups":
                for number, group in enumerate(value):
                    skip = {"params", "lr"} if "initial_lr" in group else {"params"}
                    settings |= {
                        f"{section}.group{number}.{k}": _copied_setting(v) for k, v in group.items() if k not in skip
                    }
    return settings


def changed_settings(built: Mapping[str, Any], effective: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Setting → (value as built, value after the restore) where the two differ."""
    both = {key: (value, effective[key]) for key, value in built.items() if key in effective}
    return {key: pair for key, pair in both.items() if pair[0] != pair[1]}


def _copied_setting(value: Any) -> Any:
    """A copy of a setting, which later steps do not change."""
    if isinstance(value, Tensor):
        return value.tolist()
    return list(cast(list[Any], value)) if isinstance(value, list) else value
