"""A Hugging Face training under the contract: shuffled, with dropout, accumulation, evaluations and several epochs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from postmortem.frameworks import HuggingFaceLoop
from postmortem.frameworks.huggingface.record import HuggingFaceCallback

ROWS, LENGTH = 24, 8
CONFIG: dict[str, Any] = {"run": "", "accumulate": 2, "rows": ROWS, "sampling": "random", "salt": 0, "arguments": {}}


class Ids(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Rows of token ids; `salt` makes them others."""

    def __init__(self, rows: int, salt: int) -> None:
        self.ids = torch.randint(0, 32, (rows, LENGTH), generator=torch.Generator().manual_seed(salt))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[row], "labels": self.ids[row]}


class Stream(torch.utils.data.IterableDataset[dict[str, Tensor]]):
    """The same, one after another."""

    def __init__(self, rows: int) -> None:
        self.rows = Ids(rows, 0)

    def __iter__(self) -> Any:
        return (self.rows[number] for number in range(len(self.rows)))


def make_trainer(config: Mapping[str, Any]) -> Trainer:
    """The training: batches of two rows, by default two of them to an update and six updates to an epoch."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=32, n_positions=LENGTH, n_embd=16, n_layer=1, n_head=2, use_cache=False)
    )
    run = Path(config["run"])
    settings: dict[str, Any] = {
        "max_steps": 16, "learning_rate": 0.01, "per_device_train_batch_size": 2, "logging_steps": 1,
        "gradient_accumulation_steps": config["accumulate"], "save_strategy": "steps", "save_steps": 3,
        "eval_strategy": "steps", "eval_steps": 4, "report_to": [], "disable_tqdm": True, "use_cpu": True, "seed": 7,
        "train_sampling_strategy": config["sampling"], **config["arguments"],
    }  # fmt: skip
    arguments = TrainingArguments(output_dir=str(run / "saved"), **settings)
    callback = HuggingFaceCallback(run, program="tests.frameworks.hf_program:build", config=config)
    data = Stream(config["rows"]) if config["sampling"] == "stream" else Ids(config["rows"], config["salt"])
    return Trainer(model, arguments, train_dataset=data, eval_dataset=Ids(4, 1), callbacks=[callback])


def build_of_other_data(config: Mapping[str, Any]) -> HuggingFaceLoop:
    """The dataset has changed."""
    return build({**config, "salt": 5})


def build(config: Mapping[str, Any]) -> HuggingFaceLoop:
    """The same, driven from outside."""
    return HuggingFaceLoop(make_trainer(config))


def record(run: Path, **config: Any) -> Path:
    """Train and record."""
    make_trainer({**CONFIG, "run": str(run), **config}).train()
    return run


def saved(run: Path, step: int) -> Path:
    """The Trainer's own checkpoint of a step."""
    return run / "saved" / f"checkpoint-{step}"
