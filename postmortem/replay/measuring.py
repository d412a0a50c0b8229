"""What a batch does to a state, without training on it."""

from __future__ import annotations

from postmortem.program import Batch, Measurable, Measured, Program


def measure(program: Program, batch: Batch) -> Measured:
    """Loss and gradient norm of `batch` in the present state, which is as it was afterwards.

    A program that offers no `measure` takes a step and gets its state back: dearer, and the same figures, because the
    loss and the gradient of a step belong to the parameters before its update.
    """
    if isinstance(program, Measurable):
        return program.measure(batch)
    before = program.state_dict()
    try:
        return program.step(batch)
    finally:
        program.load_state_dict(before)
