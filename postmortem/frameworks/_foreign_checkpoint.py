"""Checks a framework's own checkpoint before the framework loads it: it reads pickles, and runs come from strangers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from postmortem.checkpoint import inspection
from postmortem.errors import UnreadableInput
from postmortem.text import plain

# The pickles that Hugging Face's Trainer reads at a resume; it does not read training_args.bin.
_PICKLES = ("pytorch_model*.bin", "adapter_model*.bin", "optimizer*", "scheduler.pt", "scaler.pt", "rng_state*.pth")
_DEEPSPEED = ("global_step*", "zero_pp_rank_*", "*_optim_states.pt")


def check_foreign_checkpoint(checkpoint: Path) -> None:
    """Check every file of `checkpoint` that its framework will unpickle, without running any of it.

    Raises:
        UnreadableInput: a file is damaged or names what no checkpoint needs, or its kind cannot be checked.
    """
    if checkpoint.is_file():
        _check_file(checkpoint)
        return
    if any(any(checkpoint.glob(name)) for name in _DEEPSPEED):
        raise UnreadableInput(
            "is a DeepSpeed checkpoint: its pickles may run any code, so it is not loaded.",
            file=plain(checkpoint, 1000),
            hint="Convert it to safetensors and start from there.",
        )
    for file in _pickle_files(checkpoint):
        _check_file(file)


def _pickle_files(folder: Path) -> Iterator[Path]:
    for name in _PICKLES:
        yield from (file for file in sorted(folder.glob(name)) if file.suffix != ".json")
    yield from (entry for entry in sorted(folder.iterdir()) if (entry / ".metadata").is_file())


def _check_file(file: Path) -> None:
    if file.is_dir() and not (file / ".metadata").is_file():
        return
    inspection.require_sound(file, deep=False)
