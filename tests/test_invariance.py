"""Changes of a log that must not change its diagnosis: first step, files, order of rows, columns, the loss's unit."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postmortem.diagnosis import Diagnosis
from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.makers import STEPS, healthy, healthy_batches, write_run
from tests.test_pipeline import CASES, make

pytestmark = pytest.mark.heavy


def ranking(d: Diagnosis) -> list[tuple[str, float]]:
    return [(h.cause, h.score) for h in d.incidents[0].hypotheses]


@pytest.mark.parametrize("cause", CASES)
def test_where_the_steps_begin_does_not_matter(cause: str, tmp_path: Path) -> None:
    columns, batches = healthy(), healthy_batches()
    facts = CASES[cause](columns, batches)
    journal = [
        {key: value + 7_000 if key in ("step", "from_step") else value for key, value in event.items()}
        for event in facts.pop("journal", [])
    ]
    moved = write_run(
        tmp_path / "moved", columns, batches=batches, manifest=facts, journal=journal, steps=np.arange(STEPS) + 7_000
    )
    plain, later = diagnose(open_run(make(cause, tmp_path / "plain"))), diagnose(open_run(moved))
    assert ranking(plain) == ranking(later)
    assert later.incidents[0].onset_step == plain.incidents[0].onset_step + 7_000


@pytest.mark.parametrize("cause", ["nan_propagation", "repeated_batch"])
def test_in_which_files_the_rows_lie_does_not_matter(cause: str, tmp_path: Path) -> None:
    root = make(cause, tmp_path / "run")
    before = diagnose(open_run(root)).to_json()
    for table in ("metrics", "batches"):
        rows = pq.read_table(root / table / "part-000000.parquet")
        pq.write_table(rows.slice(0, 310), root / table / "part-000007.parquet")
        pq.write_table(rows.slice(310), root / table / "part-000000.parquet")
    assert diagnose(open_run(root)).to_json() == before


def test_unknown_columns_do_not_matter(tmp_path: Path) -> None:
    root = make("bit_flip", tmp_path / "run")
    before = diagnose(open_run(root))
    part = root / "metrics" / "part-000000.parquet"
    table = pq.read_table(part).append_column("my/own metric", pa.array(np.random.default_rng(0).random(STEPS)))
    pq.write_table(table, part)
    after = diagnose(open_run(root))
    assert ranking(after) == ranking(before)
    assert after.incidents[0].signals == before.incidents[0].signals


@given(st.floats(1e-3, 1e3), st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_the_unit_of_the_loss_and_the_order_of_rows_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, factor: float, random: Random
) -> None:
    loss = healthy()["loss"]
    loss[300:340] += 1.5 * np.exp(-np.arange(40) / 10)
    order = list(range(STEPS))
    random.shuffle(order)
    folder = tmp_path_factory.mktemp("runs")
    for name, values, rows in (("plain", loss, range(STEPS)), ("other", loss * factor, order)):
        text = "step,loss\n" + "".join(f"{i},{float(values[i])!r}\n" for i in rows)
        (folder / f"{name}.csv").write_text(text)
    plain, other = (diagnose(open_run(folder / f"{name}.csv")) for name in ("plain", "other"))
    steps = [(i.kind, i.onset_step, i.peak_step, i.recovery_step, i.outcome) for i in plain.incidents]
    assert steps == [(i.kind, i.onset_step, i.peak_step, i.recovery_step, i.outcome) for i in other.incidents]
    assert steps[0][:3] == ("loss_spike", 300, 300)
