"""The gate before a framework loads a checkpoint of its own: it reads pickles, and runs come from strangers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from postmortem.checkpoint import inspection
from postmortem.errors import UnreadableInput
from postmortem.text import plain

# What Hugging Face's Trainer reads at a resume and is a pickle; training_args.bin is not read.
_PICKLES = ("pytorch_model*.bin", "adapter_model*.bin", "optimizer*", "scheduler.pt", "scaler.pt", "rng_state*.pth")
_DEEPSPEED = ("global_step*", "zero_pp_rank_*", "*_optim_states.pt")


def check_foreign(checkpoint: Path) -> None:
    """Look into every file of `checkpoint` that its framework will unpickle, without running any of it.

    Raises:
        UnreadableInput: one is damaged or names what no checkpoint needs, or it is of a kind that cannot be looked at.
    """
    if checkpoint.is_file():
        _check(checkpoint)
        return
    if any(any(checkpoint.glob(name)) for name in _DEEPSPEED):
        raise UnreadableInput(
            "is of DeepSpeed, which loads pickles that may run anything: it is not loaded.",
            file=plain(checkpoint, 1000),
            hint="Convert it to safetensors and start from there.",
        )
    for file in _pickled(checkpoint):
        _check(file)


def _pickled(folder: Path) -> Iterator[Path]:
    for name in _PICKLES:
        yield from (file for file in sorted(folder.glob(name)) if file.suffix != ".json")
    yield from (entry for entry in sorted(folder.iterdir()) if (entry / ".metadata").is_file())


def _check(file: Path) -> None:
    if file.is_dir() and not (file / ".metadata").is_file():
        return
    inspection.check(file, deep=False)
