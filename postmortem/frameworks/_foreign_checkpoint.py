"""Checks a framework's own checkpoint before the framework loads it: it reads pickles, and runs come from strangers."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from postmortem.checkpoint import inspection
from postmortem.errors import PostmortemError, UnreadableInput
from postmortem.jsonio import read_object
from postmortem.run.checkpoints import step_in_name
from postmortem.run.journal import step_number
from postmortem.text import plain

# The pickles that Hugging Face's Trainer reads at a resume; it does not read training_args.bin.
_PICKLES = ("pytorch_model*.bin", "adapter_model*.bin", "optimizer*", "scheduler.pt", "scaler.pt", "rng_state*.pth")
_JSON = ("trainer_state.json", "config.json", "adapter_config.json", "*.index.json")  # what it reads besides
_STATE = "trainer_state.json"
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
    for file in (file for name in _JSON for file in sorted(checkpoint.glob(name))):
        _check_json(file)


@contextmanager
def restoring(checkpoint: Path, framework: str) -> Generator[None]:
    """Say which checkpoint could not be restored, whatever its framework raises at files that it does not expect.

    Raises:
        UnreadableInput: the framework failed.
    """
    try:
        yield
    except PostmortemError:
        raise
    except Exception as error:
        raise UnreadableInput(
            f"the {framework} Trainer cannot restore it ({type(error).__name__}: {plain(error, 200)}).",
            file=plain(checkpoint, 1000),
            hint="Is it damaged, or of another model? Take another one; POSTMORTEM_DEBUG=1 shows where it failed.",
        ) from error


def _pickle_files(folder: Path) -> Iterator[Path]:
    for name in _PICKLES:
        yield from (file for file in sorted(folder.glob(name)) if file.suffix != ".json")
    yield from (entry for entry in sorted(folder.iterdir()) if (entry / ".metadata").is_file())


def _check_json(file: Path) -> None:
    """Refuse what is no JSON object, and a state of another step than the name of its folder says."""
    shown = plain(file, 1000)
    if not file.is_file():  # nor a pipe, which would be waited for
        raise UnreadableInput("is no regular file.", file=shown)
    keys = read_object(file)
    if file.name != _STATE:
        return
    step, named = keys.get("global_step"), step_in_name(file.parent.name)
    if step_number(step) is None or (named is not None and step != named):
        wanted = "a whole number" if named is None else named
        raise UnreadableInput(f"damaged: global_step is {plain(step, 60)}, not {wanted}.", file=shown)


def _check_file(file: Path) -> None:
    if file.is_dir() and not (file / ".metadata").is_file():
        return
    inspection.require_sound(file, deep=False)
