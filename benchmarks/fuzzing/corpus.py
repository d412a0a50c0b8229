"""Sound files to begin from: what is committed in this repository, and logs and checkpoints made here.

A tree is a folder in memory: path → bytes, or something else than a file (`Special`).
"""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from postmortem.lab.config import default_config

from . import binary_logs, tool_logs

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = ROOT / "tests" / "compatibility" / "written_by_6008136"
TEXT_LOGS = ROOT / "tests" / "sources" / "text_logs"
ROWS = 90
_EVENTS, _WANDB = "events.out.tfevents.1700000000.host", "wandb/offline-run-20260101_000000-abc"
CANARY = "canary"  # what a pickle makes in the working directory if it is run


@dataclass(frozen=True)
class Special:
    """What is no file: a "link" to `target`, a "fifo", a "folder", or a "sparse" file of `target` bytes."""

    kind: str
    target: str = ""


Tree: TypeAlias = dict[str, "bytes | Special"]


def read_tree(folder: Path) -> Tree:
    """The files and links below `folder`."""
    links = {path: Special("link", str(path.readlink())) for path in folder.rglob("*") if path.is_symlink()}
    files = {path: path.read_bytes() for path in folder.rglob("*") if path not in links and path.is_file()}
    return {path.relative_to(folder).as_posix(): content for path, content in sorted({**files, **links}.items())}


def write_tree(tree: Mapping[str, bytes | Special], folder: Path) -> None:
    """Write a tree below `folder`. What cannot be there, such as a file below a file, is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in tree.items():
        with suppress(OSError, ValueError):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not isinstance(content, Special):
                with path.open("xb") as file:
                    file.write(content)
            elif content.kind == "link":
                path.symlink_to(content.target)
            elif content.kind == "fifo":
                os.mkfifo(path)
            elif content.kind == "folder":
                path.mkdir()
            else:
                with path.open("xb") as file:
                    file.truncate(int(content.target))


@cache
def corpus() -> dict[str, Tree]:
    """Every sound tree by name. One of a single file is a log or a checkpoint by itself; the others are folders."""
    recorded = read_tree(WRITTEN / "run")
    lab = read_tree(ROOT / "sample_runs" / "19-spike-001")
    rows = {k: v for k, v in recorded.items() if k.startswith(("metrics/", "batches/")) or "/" not in k}
    diagnosis = {"diagnosis.json": recorded["postmortem/diagnosis.json"]}
    return {
        "recorded": recorded,
        "rows": {k: v for k, v in rows.items() if k != "latest"},
        "lab": {k: v for k, v in lab.items() if "00000400" not in k and k != "latest"},
        "dcp": _below(recorded, "rollback/step-00000100.dcp/"),
        "replay": _below(recorded, "postmortem/replays/step-100-skip-110-111/"),
        "proof": {"metrics.csv": _table(_rows()), "postmortem/proof.json": recorded["postmortem/proof.json"]},
        "jobs": {f"jobs/{k}": v for k, v in read_tree(WRITTEN / "jobs").items()},
        "diagnosis": diagnosis,
        "looks": {**recorded, "postmortem/checkpoints.json": _LOOKS},
        "lessons": {"lessons.md": b"- 2026-01-01 \xc2\xb7 a \xc2\xb7 step 3 \xc2\xb7 text\r\n", **diagnosis},
        "lessons_with_marks": {"lessons.md": _LESSONS, **diagnosis},
        "policy": {"policy.yaml": _POLICY},
        "policy_toml": {"policy.toml": _POLICY_TOML},
        "config": {"config.json": json.dumps(default_config(seed=1, steps=20)).encode()},
        "lock": {".writer-0.lock": b'{"pid": 1, "host": "a", "since": 1.5, "attempt": 0}\n'},
        **_logs(),
        **_foreign_checkpoints(),
    }


def _below(tree: Tree, folder: str) -> Tree:
    return {name.removeprefix(folder): content for name, content in tree.items() if name.startswith(folder)}


def _rows() -> list[dict[str, Any]]:
    """A loss that jumps at row 60."""
    return [
        {
            "step": i,
            "loss": round(2.0 + 0.01 * (i * 37 % 11) + (3.0 if i == 60 else 0.0), 3),
            "grad_norm": round(0.5 + 0.01 * (i * 17 % 7) + (9.0 if i == 60 else 0.0), 3),
            "lr": 3e-4,
        }
        for i in range(ROWS)
    ]


def _batches() -> list[dict[str, Any]]:
    ids = {"token_ids": [[0, 1, 1]] * 2, "sample_ids": ["s0", "s1"], "worst_token_ids": [1, 0]}
    more = {"worst_token_losses": [9.0, 1.0], "worst_token_rows": [0, 1], "worst_token_cols": [1, 0]}
    return [{"step": i, "batch_index": i, "batch_hash": f"{i:08x}", **ids, **more} for i in range(ROWS)]


_MANIFEST = """\
format_version: 1
id: fuzzed
seed: 7
dtype: bf16
world_size: 1
program: tests.replay.rogue_program:build
vocab: vocab.json
vocab_size: 2
tokens_per_step: 6
columns: {pace: lr}
config: {model: {width: 8, layers: [1, 2]}, seed: 7, rate: 3.0e-4}
environment: {torch: 2.8.0, threads: 1, ranks: {'0': {device: cpu}}}
lineage: {run: parent, from_step: 30, skip: [[60, 61]], changes: ['skip=60:61']}
git: {commit: abc, branch: main, patch: notes.patch}
"""
_JOURNAL = (
    {"event": "run_start", "step": 0, "time": 1.0, "attempt": 0},
    {"event": "checkpoint", "step": 50, "time": 2.0, "path": "rollback/step-00000050.dcp", "role": "rollback"},
    {"event": "rollback", "to_step": 50, "from_step": 62, "skip": [[60, 61]], "reason": "loss", "changes": ["clip=1"]},
    {"event": "resume", "from_step": 50, "step": 50, "missing": ["rng"], "changed": {"lr": [1, 2]}, "attempt": 1},
    {"event": "config_change", "step": 70, "key": "lr", "old": 1.0, "new": 2.0},
    {"event": "environment_change", "step": 70, "changed": {"torch": ["2.8", "2.9"]}},
)
_LESSONS = b"""\
# Lessons

## Confirmed

### a (2026-01-01) <!-- run a/b a -->

- **Step 3, confirmed.** One. Two. ([report](a/report.md)) <!-- lesson 0123456789ab confirmed 109876543210 -->

## Suspected

### a <!-- run b a -->

- **Step 3, supported.** One. <!-- lesson 0123456789ac supported 000000000000 -->
"""
_POLICY = b"""\
checkpoint:
  rollback_every: 100
  recovery_every: 1000
  best_k: 3
  best_k_metric: dev_loss
  best_k_direction: minimize
  rollback_contents: full
  retention: {rollback_keep: 5, recovery_keep: 3}
"""
_POLICY_TOML = b"""\
[checkpoint]
rollback_every = 100
best_k_metric = "dev_loss"
retention = {rollback_keep = 5, recovery_keep = 3}
"""


_LOOKS = json.dumps(
    {
        "format": 1,
        "checkpoints": {
            f"rollback/step-{step:08d}.dcp": {"files": "0" * 32, "nonfinite": {"w": 1}, "problem": ""}
            for step in (50, 100)
        },
    }
).encode()


def _lines(rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _table(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    return "".join(delimiter.join(map(str, row)) + "\n" for row in (rows[0], *(row.values() for row in rows))).encode()


def _logs() -> dict[str, Tree]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = _rows()
    parquet = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), parquet, row_group_size=40)
    keys = ("epoch", "learning_rate")
    history = [{"step": row["step"], "loss": row["loss"], **dict.fromkeys(keys, 0.1)} for row in rows]
    state = {"best_metric": None, "epoch": 1.0, "global_step": ROWS, "log_history": history, "max_steps": ROWS}
    panels = [{"Step": row["step"], "run-1 - loss": row["loss"], "run-1 - loss__MIN": row["loss"]} for row in rows]
    tag = [{"Wall time": 1.7e9 + row["step"], "Step": row["step"], "Value": row["loss"]} for row in rows]
    events, records = binary_logs.events(rows), binary_logs.wandb_records(rows)
    beside: Tree = {
        "journal.jsonl": _lines(_JOURNAL),
        "vocab.json": b'{"tokens": ["he", "llo"]}',
        "notes.patch": b"--- a\n+++ b\n",
    }
    return {
        "csv": {"metrics.csv": _table(rows)},
        "tsv": {"metrics.tsv": _table(rows, "\t")},
        "jsonl": {"metrics.jsonl": _lines(rows)},
        "json": {"metrics.json": json.dumps(rows).encode()},
        "trainer_state": {"trainer_state.json": json.dumps(state).encode()},
        "parquet": {"metrics.parquet": parquet.getvalue()},
        "wandb": {"wandb.csv": _table(panels)},
        "tensorboard": {"run-1-tag-loss.csv": _table(tag)},
        **tool_logs.tool_logs(rows),
        "pieces": {"metrics.1.csv": _table(rows[:50]), "metrics.csv": _table(rows[40:]).partition(b"\n")[2]},
        "gzip": {"metrics.csv.gz": gzip.compress(_table(rows), mtime=0)},
        **{f"text_{path.stem}": {"train.log": path.read_bytes() * 8} for path in sorted(TEXT_LOGS.iterdir())},
        "event_file": {_EVENTS: binary_logs.event_file(events)},
        "event_folders": {
            f"train/{_EVENTS}": binary_logs.event_file(events),
            f"train/{_EVENTS}.v2": binary_logs.event_file(binary_logs.events(rows[30:], binary_logs.START + 1_000)),
            f"validation/{_EVENTS}": binary_logs.event_file(events[:40]),
        },
        "events": {f"{i:03}": event for i, event in enumerate(events[:40])},
        "wandb_file": {"run-abc.wandb": binary_logs.wandb_file(records)},
        "wandb_folders": {f"{_WANDB}/run-abc.wandb": binary_logs.wandb_file(records), "wandb/latest": b""},
        "wandb_records": {f"{i:03}": record for i, record in enumerate(records[:40])},
        "folder": {
            "metrics.jsonl": _lines(rows),
            "batches.jsonl": _lines(_batches()),
            "run.yaml": _MANIFEST.encode(),
            **beside,
        },
    }


def _safetensors() -> bytes:
    header = {"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}, "__metadata__": {"format": "pt"}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(12)


def _foreign_checkpoints() -> dict[str, Tree]:
    """What torch.save, a Hugging Face Trainer and Lightning leave, and pickles that want to run something."""
    import torch

    from tests.checkpoint.makers import gadgets

    def saved(value: Any, **options: Any) -> bytes:
        data = io.BytesIO()
        torch.save(value, data, **options)
        return data.getvalue()

    mask = torch.tensor([0.0, float("-inf")])
    weights = {"layer.weight": torch.arange(12.0).reshape(3, 4), "layer.bias": torch.zeros(3), "mask": mask}
    moments = {"state": {0: {"exp_avg": torch.ones(12), "step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
    whole = {"state_dict": weights, "optimizer_states": [moments], "global_step": 3, "epoch": 0, "loops": {}}
    return {
        "torch_zip": {"checkpoint-3.pt": saved(whole)},
        "torch_legacy": {"checkpoint-3.pt": saved(whole, _use_new_zipfile_serialization=False)},
        "huggingface": {
            "pytorch_model.bin": saved(weights),
            "model.safetensors": _safetensors(),
            "optimizer.pt": saved(moments),
            "scheduler.pt": saved({"last_epoch": 3}),
            "rng_state.pth": saved({"cpu": torch.zeros(8, dtype=torch.uint8)}),
            "trainer_state.json": b'{"global_step": 3}',
        },
        **{f"pickle, {what}": {"checkpoint-3.pt": data} for what, data in gadgets(Path(CANARY)).items()},
    }
