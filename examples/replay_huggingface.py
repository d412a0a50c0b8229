"""A Hugging Face `Trainer`, recorded and then replayed by its own loop, with and without the batches that spoiled it.

    python examples/replay_huggingface.py runs/hf

Rows 320 to 335 of the data are garbage: batches 40 and 41, as they are read in order.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from postmortem.change import Change
from postmortem.frameworks import HuggingFaceLoop
from postmortem.frameworks.huggingface.record import HuggingFaceCallback
from postmortem.replay.run_replay import replay
from postmortem.replay.spec import ReplaySpec

CONFIG = {"run": "", "seed": 7, "lr": 3e-3, "width": 32}
STEPS, GARBAGE = 160, range(320, 336)


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """1280 rows of 16 token ids."""

    def __len__(self) -> int:
        return 1280

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(row)
        ids = (5 * torch.arange(16) + torch.randint(64, (1,), generator=draw)) % 64
        if row in GARBAGE:
            ids = torch.randint(64, (16,), generator=draw)
        return {"input_ids": ids, "labels": ids}


def make_trainer(config: Mapping[str, Any]) -> Trainer:
    """The training, recorded into `config["run"]`."""
    torch.manual_seed(config["seed"])
    shape = GPT2Config(vocab_size=64, n_positions=16, n_embd=config["width"], n_layer=1, n_head=2)
    run = Path(config["run"])
    arguments = TrainingArguments(
        output_dir=str(run / "checkpoints"),  # inside the run, so that its checkpoints are found
        max_steps=STEPS,
        per_device_train_batch_size=8,
        learning_rate=config["lr"],
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_steps=20,
        seed=config["seed"],
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    callback = HuggingFaceCallback(run, program="replay_huggingface:build", config=config)
    return Trainer(GPT2LMHeadModel(shape), arguments, train_dataset=Rows(), callbacks=[callback])


def build(config: Mapping[str, Any]) -> HuggingFaceLoop:
    """The training, for replays."""
    return HuggingFaceLoop(make_trainer(config))


def main(run: Path) -> None:
    """Train, replay without changes, replay without the garbage."""
    torch.set_num_threads(1)
    make_trainer({**CONFIG, "run": str(run)}).train()
    for name, changes in (("null", ()), ("skip", (Change("skip", ((40, 42),)),))):
        worst = 0.0

        def track_worst_loss(step: int, until: int, loss: float, recorded: float | None) -> None:
            nonlocal worst
            worst = max(worst, loss)

        spec = ReplaySpec(str(run), f"{run}-{name}", from_step=20, until=60, changes=changes, trusted=True)
        result = replay(spec, on_step=track_worst_loss)
        comparison = "every bit as recorded" if result.exact else f"differs from step {result.differences[0].step} on"
        print(f"{name}: {result.steps} steps from 20, {comparison}, highest loss {worst:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
