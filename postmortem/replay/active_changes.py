"""The interventions that act during a replay, bound to the program that it drives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from postmortem.change import Change, Window
from postmortem.errors import UsageError
from postmortem.interventions import Intervention, ReplayContext, build_intervention
from postmortem.program import Adjustable, Batch, Program, Scalar
from postmortem.training_loop import Row

_RESTORED = ("lr", "betas")  # keys of a parameter group that a change sets for one update only


class ActiveChanges:
    """Several interventions that act as one. `columns` are the corrections to the row of the last update."""

    def __init__(self, changes: Iterable[Change], context: ReplayContext) -> None:
        self._context = context
        self._interventions: tuple[Intervention, ...] = tuple(build_intervention(change) for change in changes)
        self._before_updates = [
            intervention for intervention in self._interventions if _overrides(intervention, "before_update")
        ]
        self._batch_editors = [
            intervention for intervention in self._interventions if _overrides(intervention, "batch")
        ]
        self._handles: list[Any] = []
        self._saved_groups: list[dict[str, Any]] = []
        self.step = context.from_step
        self.columns: dict[str, Scalar] = {}
        self.edited = False

    @property
    def texts(self) -> tuple[str, ...]:
        """What each change does, in words."""
        return tuple(intervention.text for intervention in self._interventions)

    @property
    def acted(self) -> frozenset[str]:
        """Those of `texts` that have changed a batch or an update so far."""
        return frozenset(intervention.text for intervention in self._interventions if intervention.acted)

    @property
    def act_while_driven(self) -> frozenset[str]:
        """Those of `texts` that change batches or updates, and nothing before."""
        return frozenset(intervention.text for intervention in (*self._batch_editors, *self._before_updates))

    @property
    def reconfigures(self) -> bool:
        """Whether a change affects the config of the program, so that its batches may differ on purpose."""
        return any(_overrides(intervention, "configured") for intervention in self._interventions)

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows of batches to skip."""
        return tuple(window for intervention in self._interventions for window in intervention.windows(self._context))

    def configured(self, config: dict[str, Any]) -> dict[str, Any]:
        """The config from which the program is built, with all changes."""
        for intervention in self._interventions:
            config = intervention.configured(config)
        return config

    def resumed(self, parts: tuple[str, ...]) -> tuple[str, ...] | None:
        """The parts of the state that a resume restores, where the run restored only `parts`; None: all parts."""
        restored: tuple[str, ...] | None = parts
        for intervention in self._interventions:
            restored = None if restored is None else intervention.resumed(restored)
        return restored

    def begin(self, program: Program) -> None:
        """Called once, after the program has restored the state from which the changes act."""
        for intervention in self._interventions:
            intervention.begin(program, self._context)

    def bind(self, program: Program) -> None:
        """Act on every update of `program` from now on.

        Raises:
            UsageError: an intervention needs the optimizers, and the program does not offer them.
        """
        self.release()
        if not self._before_updates:
            return
        if not isinstance(program, Adjustable):
            raise UsageError(
                f"{self._before_updates[0].text}: the program offers no optimizers, see postmortem.program"
            )
        for optimizer in program.optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._before_update))
            self._handles.append(optimizer.register_step_post_hook(self._after_update))

    def release(self) -> None:
        """Stop acting on the program."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def edit(self, program: Program) -> Callable[[int, Batch], Batch]:
        """A function (step, batch) → the batch to consume."""

        def edited(step: int, batch: Batch) -> Batch:
            self.step, self.columns, result = step, {}, batch
            for intervention in self._batch_editors:
                before, result = result, intervention.batch(program, self._context, result)
                intervention.acted |= result is not before
            self.edited = result is not batch
            return result

        return edited

    def rewrite(self, step: int, row: Row) -> Row:
        """The row of a step, corrected for the changes. A program computes `update_rms` from the rate that it knows."""
        program_rate, used_rate, update_rms = row.get("lr"), self.columns.get("lr"), row.get("update_rms")
        corrected = {**row, **self.columns}
        if (
            isinstance(program_rate, float)
            and isinstance(used_rate, float)
            and isinstance(update_rms, float)
            and used_rate
        ):
            corrected["update_rms"] = update_rms * (program_rate / used_rate)
        return corrected

    def _before_update(self, optimizer: Any, args: Sequence[Any], kwargs: Any) -> None:
        self._saved_groups = [
            {key: group[key] for key in _RESTORED if key in group} for group in optimizer.param_groups
        ]
        for intervention in self._before_updates:
            self.columns |= intervention.before_update(self._context, self.step, optimizer)

    def _after_update(self, optimizer: Any, args: Sequence[Any], kwargs: Any) -> None:
        """Undo changes that are for one update only: a program or a scheduler continues from its own rate."""
        for group, saved in zip(optimizer.param_groups, self._saved_groups, strict=True):
            group.update(saved)


def _overrides(intervention: Intervention, method: str) -> bool:
    return getattr(type(intervention), method) is not getattr(Intervention, method)
