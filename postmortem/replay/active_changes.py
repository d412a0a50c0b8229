"""The interventions of one replay, bound to the program that it drives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from postmortem.change import Change, Window
from postmortem.errors import UsageError
from postmortem.interventions import Intervention, Scene, make
from postmortem.program import Adjustable, Batch, Program, Scalar
from postmortem.training_loop import Row

_OWN = ("lr", "betas")  # of a group: what a change sets for one update


class ActiveChanges:
    """Several interventions as one. `columns` is what the last update's row has to say otherwise."""

    def __init__(self, changes: Iterable[Change], scene: Scene) -> None:
        self._scene = scene
        self._all: tuple[Intervention, ...] = tuple(make(change) for change in changes)
        self._on_update = [one for one in self._all if _overrides(one, "before_update")]
        self._on_batch = [one for one in self._all if _overrides(one, "batch")]
        self._handles: list[Any] = []
        self._own: list[dict[str, Any]] = []
        self.step = scene.from_step
        self.columns: dict[str, Scalar] = {}
        self.edited = False

    @property
    def texts(self) -> tuple[str, ...]:
        """What is changed, in words."""
        return tuple(one.text for one in self._all)

    @property
    def reconfigures(self) -> bool:
        """Whether the program is built of another config, so that its batches may be others on purpose."""
        return any(_overrides(one, "configured") for one in self._all)

    @property
    def windows(self) -> tuple[Window, ...]:
        """Every window of batches to skip."""
        return tuple(window for one in self._all for window in one.windows(self._scene))

    def configured(self, config: dict[str, Any]) -> dict[str, Any]:
        """The config that the program is built of."""
        for one in self._all:
            config = one.configured(config)
        return config

    def resumed(self, parts: tuple[str, ...]) -> tuple[str, ...] | None:
        """What a resume takes over that took over `parts` in the run; None: everything."""
        taken: tuple[str, ...] | None = parts
        for one in self._all:
            taken = None if taken is None else one.resumed(taken)
        return taken

    def begin(self, program: Program) -> None:
        """Called once, when the program holds the state of the step from which on the changes hold."""
        for one in self._all:
            one.begin(program, self._scene)

    def bind(self, program: Program) -> None:
        """See every update of `program` from now on.

        Raises:
            UsageError: an intervention needs the optimizers, and the program does not show them.
        """
        self.release()
        if not self._on_update:
            return
        if not isinstance(program, Adjustable):
            raise UsageError(f"{self._on_update[0].text}: the program offers no optimizers, see postmortem.program")
        for optimizer in program.optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._before_update))
            self._handles.append(optimizer.register_step_post_hook(self._after_update))

    def release(self) -> None:
        """Let go of the program."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def edit(self, program: Program) -> Callable[[int, Batch], Batch]:
        """(step, batch) → the batch to consume."""

        def edited(step: int, batch: Batch) -> Batch:
            self.step, self.columns, found = step, {}, batch
            for one in self._on_batch:
                found = one.batch(program, self._scene, found)
            self.edited = found is not batch
            return found

        return edited

    def rewrite(self, step: int, row: Row) -> Row:
        """The row of a step with what was changed in it. The program divides its update by the rate that it knows."""
        known, used, size = row.get("lr"), self.columns.get("lr"), row.get("update_rms")
        found = {**row, **self.columns}
        if isinstance(known, float) and isinstance(used, float) and isinstance(size, float) and used:
            found["update_rms"] = size * (known / used)
        return found

    def _before_update(self, optimizer: Any, args: Sequence[Any], kwargs: Any) -> None:
        self._own = [{key: group[key] for key in _OWN if key in group} for group in optimizer.param_groups]
        for one in self._on_update:
            self.columns |= one.before_update(self._scene, self.step, optimizer)

    def _after_update(self, optimizer: Any, args: Sequence[Any], kwargs: Any) -> None:
        """Set back what a change was for one update: a program or a scheduler may go on from its own rate."""
        for group, own in zip(optimizer.param_groups, self._own, strict=True):
            group.update(own)


def _overrides(one: Intervention, name: str) -> bool:
    return getattr(type(one), name) is not getattr(Intervention, name)
