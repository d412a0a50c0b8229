"""Write one long run twice: as a run directory by the project's own writer, and as TensorBoard events.

    python benchmarks/_long_run.py FOLDER STEPS EVENT_STEPS

writes FOLDER/run (STEPS rows of COLUMNS) and FOLDER/events (the first EVENT_STEPS of the same rows).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from postmortem.record.writer import RunWriter

SEED = 2
ONSET_SHARE = 0.6137  # where in the run its one incident begins
COLUMNS = (
    "loss",
    "lr",
    "grad_norm",
    "param_norm",
    "update_rms",
    "adam_m_norm",
    "adam_v_norm",
    "g2_over_v",
    "max_attention_logit",
    "token_loss_p99",
    "tokens_per_s",
    "step_time_s",
)


def onset(steps: int) -> int:
    """The step whose gradient jumps; the loss follows one step later."""
    return int(steps * ONSET_SHARE)


def values(steps: int) -> np.ndarray:
    """float64[steps, 12] in the order of COLUMNS.

    The loss falls from 11 to about 2.2 nats by a power law, with 2 % noise (10 % on the norms), warmup and cosine, and
    has one spike of 1.4 nats that is over after 60 steps.
    """
    rng = np.random.default_rng(SEED)
    step = np.arange(steps, dtype=float)
    start = onset(steps)

    def noisy(level: np.ndarray | float, spread: float) -> np.ndarray:
        return level * np.exp(spread * rng.standard_normal(steps))

    kick = np.zeros(steps)
    kick[start : start + 60] = np.exp(-np.arange(min(60, steps - start)) / 12)
    late = np.concatenate(([0.0], kick[:-1]))
    warmup = max(2_000, steps // 500)
    lr = 3e-4 * np.minimum((step + 1) / warmup, 0.55 + 0.45 * np.cos(np.pi * step / steps))
    loss = 2.2 + 8.8 * (1 + step / 200) ** -0.42 + 0.02 * rng.standard_normal(steps) + 1.4 * late
    grad_norm = noisy(0.25 + 3 * (1 + step / 50) ** -0.5, 0.1) * (1 + 30 * kick)
    param_norm = 60 * (1 + step / 5_000) ** 0.12 + 0.001 * rng.standard_normal(steps)
    step_time = noisy(0.41, 0.03)
    return np.column_stack(
        (
            loss,
            lr,
            grad_norm,
            param_norm,
            noisy(0.21, 0.05) * (1 + 2 * late),
            noisy(0.05, 0.05) * (1 + 3 * late),
            noisy(0.0025, 0.02) * (1 + late),
            noisy(1.0, 0.08) * (1 + 20 * kick),
            noisy(14.0, 0.06),
            noisy(2.6, 0.03) * loss / 2.2,
            524_288 / step_time,
            step_time,
        )
    )


def write_run(path: Path, rows: np.ndarray) -> None:
    """Write `rows` as a training loop would: one `log` call per step."""
    with RunWriter(path, {"id": "long", "seed": SEED}) as writer:
        for step, row in enumerate(rows.tolist()):
            writer.log(step, dict(zip(COLUMNS, row, strict=True)))


def write_events(path: Path, rows: np.ndarray) -> None:
    """Write `rows` as `SummaryWriter.add_scalar` would: one event per scalar."""
    writer = EventFileWriter(str(path), max_queue_size=10_000)
    for step, row in enumerate(rows.tolist()):
        for name, value in zip(COLUMNS, row, strict=True):
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
            writer.add_event(Event(step=step, wall_time=1.7e9 + step, summary=summary))
    writer.close()


def main() -> None:
    folder, steps, event_steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rows = values(steps)
    write_run(folder / "run", rows)
    write_events(folder / "events", rows[:event_steps])


if __name__ == "__main__":
    main()
