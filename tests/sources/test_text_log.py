"""Text logs: lines as many programs print them, and whatever else stands between them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from postmortem.dialects import dialects
from postmortem.errors import UnreadableInput
from postmortem.run import Run
from postmortem.sources import open_run
from tests.sources.helpers import losses, write

PREAMBLE = "Namespace(lr=0.1, batch_size=32)\nloading 12 shards …\n  loss_scale ...................... 12.0\n"
LOGS = Path(__file__).parent / "text_logs"
OF_DIALECTS = sorted(path.stem for path in LOGS.iterdir() if not path.stem.startswith("other_"))
OTHERS = sorted(path.stem for path in LOGS.iterdir() if path.stem.startswith("other_"))


def read(folder: Path, *lines: str, name: str = "train.log") -> Run:
    return open_run(write(folder, name, PREAMBLE + "\n".join(lines) + "\nTraceback: in compute_loss(x)\n"))


@pytest.mark.parametrize("module", OF_DIALECTS)
def test_lines_of_a_known_program(module: str, tmp_path: Path) -> None:
    dialect = import_module(f"postmortem.dialects.{module}").DIALECT
    run = read(tmp_path, (LOGS / f"{module}.log").read_text())
    assert losses(run) == {1: 11.010252, 2: 10.956968}
    assert f"train.log: its lines are those of {dialect.name}" in run.notes
    assert {f"train.log: {limit}" for limit in dialect.limits} <= set(run.notes)


def test_each_dialect_has_lines_here() -> None:
    here = {import_module(f"postmortem.dialects.{module}").DIALECT.name for module in OF_DIALECTS}
    assert {dialect.name for dialect in dialects()} - here == {"Hugging Face's Trainer"}


@pytest.mark.parametrize("name", OTHERS)
def test_lines_of_any_program(name: str, tmp_path: Path) -> None:
    run = read(tmp_path, (LOGS / f"{name}.log").read_text())
    assert list(losses(run).values()) == [11.010252, 10.956968] and not any("lines are those" in n for n in run.notes)


def test_printed_dicts_have_no_step_but_their_order(tmp_path: Path) -> None:
    lines = [
        f" {n}%|{'█' * n}      | {n}0/100 [00:0{n}<00:10,  9.9it/s]{{'loss': '{4 - n}.5', 'grad_norm': 'nan', "
        f"'learning_rate': '5e-05', 'epoch': '{n / 10}'}}"
        for n in range(3)
    ]
    run = read(tmp_path, *lines, "{'eval_loss': 2.25, 'eval_runtime': 3.1, 'epoch': 0.2}")
    assert losses(run) == {0: 4.5, 1: 3.5, 2: 2.5}
    grad_norm = run.series("grad_norm")
    assert grad_norm is not None and np.isnan(grad_norm.value).all() and "eval_loss" in run.columns


def test_a_line_without_a_step_has_that_of_the_line_before(tmp_path: Path) -> None:
    run = read(tmp_path, "step 5 | loss 2.5", "val loss 3.25", "step 6 | loss 2.25", "val loss 3.0")
    evaluated = run.series("eval_loss")
    assert evaluated is not None and dict(zip(evaluated.step.tolist(), evaluated.value.tolist(), strict=True)) == {
        5: 3.25,
        6: 3.0,
    }


def test_batches_of_epochs_are_counted_through(tmp_path: Path) -> None:
    lines = [
        line
        for epoch in (1, 2)
        for line in (
            f"Epoch {epoch}/2",
            *(
                f"{b}/3 {'━' * b}{' ' * (3 - b)} {b}s {20 + b}ms/step - accuracy: 0.{b} - loss: {4 - epoch}.{9 - b}"
                for b in (1, 2, 3)
            ),
        )
    ]
    assert losses(read(tmp_path, *lines)) == {1: 3.8, 2: 3.7, 3: 3.6, 4: 2.8, 5: 2.7, 6: 2.6}


def test_thousands_nan_and_units(tmp_path: Path) -> None:
    run = read(
        tmp_path, "step: 1 loss: 1,234.5 lr: 1e-3", "step: 2 loss: nan lr: 1e-3", "step: 1,003 loss: -inf lr: 2e-3"
    )
    loss = run.series("loss")
    assert loss is not None and loss.step.tolist() == [1, 2, 1003]
    assert loss.value[0] == 1234.5 and np.isnan(loss.value[1]) and loss.value[2] == -np.inf


def test_a_key_of_map_makes_a_metric_line(tmp_path: Path) -> None:
    log = write(tmp_path, "train.log", PREAMBLE + "it 1 cost=2.5 pace=0.1\nit 2 cost=2.25 pace=0.1\n")
    with pytest.raises(UnreadableInput, match="--map loss=<key>"):
        open_run(log)
    assert losses(open_run(log, {"loss": "cost", "lr": "pace"})) == {1: 2.5, 2: 2.25}


def test_what_is_printed_between_the_lines_does_not_matter(tmp_path: Path) -> None:
    lines = [f"step {n} | loss {3 - n / 1000:.4f} | dt 12ms" for n in range(1000)]
    between = [
        line
        for n, text in enumerate(lines)
        for line in (f"worker {n}: compute_loss took {n} ms (loss functions are slow)", text, "", "~" * (n % 50))
    ]
    assert losses(read(tmp_path, *lines)) == losses(read(tmp_path, *between, name="other.log"))
    assert losses(read(tmp_path, *lines)) == losses(read(tmp_path, "\r\n".join(lines), name="windows.out"))


def test_metric_lines_after_a_long_preamble_are_read(tmp_path: Path) -> None:
    preamble = "def forward(self, x):\n    return self.loss(x)\n" * 110_000
    log = write(tmp_path, "train.txt", preamble + "step 1 loss 2.5\nstep 2 loss 2.25\n")
    assert log.stat().st_size > 5_000_000 and losses(open_run(log)) == {1: 2.5, 2: 2.25}


def test_text_without_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match="no line with a loss and a number"):
        open_run(write(tmp_path, "notes.txt", "the loss was high today\nwe lost 3 machines\n"))
    (tmp_path / "core.dump").write_bytes(b"\x00\x01loss: 2\n" * 100)
    with pytest.raises(UnreadableInput, match="no known kind of run"):
        open_run(tmp_path / "core.dump")


@pytest.mark.parametrize(
    "line",
    [
        "loss " + "ab " * 50_000,
        "loss a" + " \t" * 100_000,
        "loss: " + "█ " * 100_000,
        "loss=1 " + "a=1 " * 50_000,
        "loss: " + "1," * 200_000,
        "(" * 300_000 + "loss: 1",
    ],
    ids=["words", "spaces", "bar", "pairs", "commas", "brackets"],
)
def test_lines_that_would_take_long_are_left_out(line: str, tmp_path: Path) -> None:
    run = read(tmp_path, "step 1 loss 2.5", *[line] * 5, *[line[:15_000] + f" {n}" for n in range(40)], "step 2 loss 2")
    assert losses(run)[2] == 2.0
    assert any("longer than 16 KiB" in note for note in run.notes)
