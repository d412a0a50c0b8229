"""Going back: which checkpoint, and what it gave, left out and changed."""

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
"""What torch's schedulers and GradScaler keep in their state that is configuration and no progress."""
_OF_SCHEDULERS = frozenset({"initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"})
_SHOWN = 6


@dataclass(frozen=True)
class Resumed:
    """What a resume did.

    step: updates that the restored state has behind it, the number of the next step. restored: the sections, or the
    parts asked for, that came back. missing: pieces of the program's state that the checkpoint did not give, and that
    are as they were built. unused: sections that nothing took. changed: setting → (what the program was built with,
    what it goes on with). saved_world_size, world_size: number of ranks then and now.
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
        """Whether the checkpoint held parameters only, so that the optimizer starts from nothing."""
        return self.contents == "parameters"

    def summary(self) -> str:
        """The run's top-line fact, and below it all that a careful reader would ask next."""
        lines = [f"resumed from step {self.step}", f"checkpoint: {self.path.parent.name}/{self.path.name}"]
        lines.append(f"restored: {', '.join(self.restored)}")
        if self.optimizer_reset:
            lines.append("optimizer: RESET, the checkpoint holds parameters only")
        if self.missing:
            lines.append(f"not restored, as built: {listed(self.missing)}")
        if self.unused:
            lines.append(f"in the checkpoint, but nothing takes it: {listed(self.unused)}")
        for key, (asked, effective) in self.changed.items():
            lines.append(f"{key}: asked for {plain(asked, 80)}, goes on with {plain(effective, 80)}")
        if self.world_size != self.saved_world_size:
            lines.append(f"ranks: saved by {self.saved_world_size}, resumed by {self.world_size}")
        return "\n".join(lines)


def listed(names: Sequence[str]) -> str:
    """The first few of `names`, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return plain(", ".join(names[:_SHOWN]), 400) + more


def choose(shelf: CheckpointFolders, verify: bool) -> tuple[StoredCheckpoint | None, list[tuple[Path, str]]]:
    """(the newest sound checkpoint of the effective history, what was refused on the way to it and why): a full one,
    recovery before rollback at the same step, or one of parameters only while there is no full one."""
    refused: list[tuple[Path, str]] = []
    entries: list[StoredCheckpoint] = []
    for path in shelf.paths("rollback", "recovery"):
        try:
            entries.append(read_stored(path))
        except UnreadableInput as error:
            refused.append((path, str(error)))
    entries.sort(key=lambda e: (e.manifest.contents == "full", e.step, e.role == "recovery"), reverse=True)
    for entry in entries:
        if entry.alive:
            reason = unsound(entry.path, verify)
            if reason is None:
                return entry, refused
            refused.append((entry.path, reason))
    return None, refused


def unsound(path: Path, deep: bool) -> str | None:
    """What is wrong with a checkpoint, or None; `deep` reads every byte of it."""
    try:
        inspection.check(path, deep=deep)
    except UnreadableInput as error:
        return str(error)
    return None


def absent(wanted: Mapping[str, Any], given: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Dotted names of what `wanted` has and `given` has not, as far up as possible."""
    for key, value in wanted.items():
        if key not in given:
            yield f"{above}{key}"
        elif isinstance(value, Mapping) and isinstance(given[key], Mapping):
            yield from absent(cast(Mapping[str, Any], value), given[key], f"{above}{key}.")


def hold_model(path: Path, asked: Mapping[str, Any], loaded: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose model is another one: silently keeping fresh parameters would be no resume.

    Raises:
        UsageError: parameters are missing, too many, or of another shape.
    """
    wanted: Mapping[str, Any] = asked.get("model", {})
    given: Mapping[str, Any] = loaded.get("model", {})
    shapes = [
        f"{name} ({tuple(value.shape)} here, {tuple(given[name].shape)} there)"
        for name, value in wanted.items()
        if isinstance(value, Tensor) and isinstance(given.get(name), Tensor) and value.shape != given[name].shape
    ]
    for problem, names in (
        ("lacks", list(absent(wanted, given))),
        ("has, and this model has not,", list(absent(given, wanted))),
        ("has in another shape", shapes),
    ):
        if names:
            raise UsageError(
                f"{plain(path, 1000)}: its model is not this one: it {problem} {listed(names)}. Build the model that "
                "was saved, or name the parts to take over"
            )


def hold_optimizers(path: Path, asked: Mapping[str, Any], loaded: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose optimizer is of another kind: torch would take its groups over, and step on with
    moments that mean something else. Groups of one kind may have gained or lost settings between versions, not both.

    Raises:
        UsageError: both have settings that the other has not.
    """
    for section, given in loaded.items():
        there, here = _group_keys(given), _group_keys(asked.get(section))
        if there - here and here - there:
            raise UsageError(
                f"{plain(path, 1000)}: its {plain(section, 60)} is not this one: it has "
                f"{listed(sorted(there - here))}, and this one has {listed(sorted(here - there))}. Build the one that "
                "was saved, or name the parts to take over"
            )


def _group_keys(section: Any) -> set[str]:
    """Settings of an optimizer's groups, but for those that schedulers put there."""
    groups = cast(Mapping[str, Any], section).get("param_groups") if isinstance(section, Mapping) else None
    named = [set(cast(dict[str, Any], one)) for one in cast(list[Any], groups or []) if isinstance(one, dict)]
    return set[str]().union(*named) - _OF_SCHEDULERS if isinstance(groups, list) else set()


def settings(state: Mapping[str, Any]) -> dict[str, Any]:
    """Setting → value of what a state holds of the configuration: optimizers' groups, schedulers, the scaler.

    The learning rate of a group under a scheduler is progress; its `initial_lr` is the setting.
    """
    found: dict[str, Any] = {}
    for section, held in state.items():
        if not isinstance(held, Mapping):
            continue
        for key, value in cast(Mapping[str, Any], held).items():
            if key in _SETTINGS:
                found[f"{section}.{key}"] = _plain(value)
            if key == "param_groups":
                for number, group in enumerate(value):
                    skip = {"params", "lr"} if "initial_lr" in group else {"params"}
                    found |= {f"{section}.group{number}.{k}": _plain(v) for k, v in group.items() if k not in skip}
    return found


def changes(asked: Mapping[str, Any], effective: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Setting → (asked, effective) where the two differ."""
    both = {key: (value, effective[key]) for key, value in asked.items() if key in effective}
    return {key: pair for key, pair in both.items() if pair[0] != pair[1]}


def _plain(value: Any) -> Any:
    """A copy of a setting that later steps do not change."""
    if isinstance(value, Tensor):
        return value.tolist()
    return list(cast(list[Any], value)) if isinstance(value, list) else value
