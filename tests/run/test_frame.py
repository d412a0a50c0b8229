"""A run as a DataFrame: its rows and columns, and that it keeps "not logged" and NaN apart."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from postmortem.run import Run
from postmortem.sources import open_run
from tests.makers import write_run

NAN, INF = math.nan, math.inf
GAPS = [1.0, NAN, None, INF, 5.0]


@pytest.fixture
def gaps(tmp_path: Path) -> Run:
    """Five steps, with a NaN in one, an infinity in another, and no value in a third."""
    return open_run(write_run(tmp_path / "run", {"loss": GAPS, "lr": [0.1] * 5}))


def spelled(column: pd.Series[Any]) -> list[str]:
    """Each cell as text, as Arrow has it."""
    return ["null" if v is None else str(v) for v in pa.array(column).to_pylist()]


def test_not_logged_and_nan_are_two_things(gaps: Run) -> None:
    loss = gaps.to_pandas()["loss"]
    assert spelled(loss) == ["1.0", "nan", "null", "inf", "5.0"]
    assert loss.isna().tolist() == [False, False, True, False, False]
    assert loss.iloc[2] is pd.NA and math.isnan(loss.iloc[1])
    assert (~np.isfinite(loss.dropna())).tolist() == [False, True, True, False]


def test_they_stay_two_things_where_rows_move_and_on_disk(gaps: Run, tmp_path: Path) -> None:
    frame = gaps.to_pandas()
    assert spelled(frame.loc[1:2, "loss"]) == ["nan", "null"]
    assert spelled(frame.copy()[frame["lr"] > 0].sort_index(ascending=False)["loss"])[2:4] == ["null", "nan"]
    assert spelled(pd.concat([frame, frame])["loss"]) == 2 * spelled(frame["loss"])
    frame.to_parquet(tmp_path / "frame.parquet")
    assert spelled(pd.read_parquet(tmp_path / "frame.parquet", dtype_backend="pyarrow")["loss"]) == spelled(
        frame["loss"]
    )


def test_a_csv_has_the_same_as_text(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n0,1.0\n1,NaN\n2,\n3,inf\n4,5.0\n")
    frame = open_run(tmp_path / "metrics.csv").to_pandas()
    assert spelled(frame["loss"]) == ["1.0", "nan", "null", "inf", "5.0"]


def test_columns_index_and_units(tmp_path: Path) -> None:
    columns = {"loss": [3.0, 2.0], "mine": [7, None], "words": ["a", None]}
    batches = {"batch_index": [0, 1], "batch_hash": ["00", None], "worst_token_ids": [[4, 2], None]}
    run = open_run(write_run(tmp_path / "run", columns, batches=batches))
    frame = run.to_pandas()
    assert tuple(frame.columns) == run.columns == ("loss", "batch_index", "batch_hash", "worst_token_ids")
    assert (frame.index.name, frame.index.dtype, frame.index.tolist()) == ("step", np.int64, [0, 1])
    assert [str(kind) for kind in frame.dtypes[:3]] == ["double[pyarrow]", "double[pyarrow]", "string[pyarrow]"]
    assert frame["batch_hash"].tolist() == ["00", pd.NA]
    assert pa.array(frame["worst_token_ids"]).to_pylist() == [[4, 2], None]
    assert frame.attrs["units"] == {
        "loss": "nats per token", "batch_index": "batches", "batch_hash": "text", "worst_token_ids": "list"
    }  # fmt: skip
    others = run.to_pandas(["words", "mine"])
    assert [spelled(others[name]) for name in ("words", "mine")] == [["a", "null"], ["7.0", "null"]]
    assert others.attrs["units"] == {}
    assert run.to_pandas([]).shape == (2, 0)
    with pytest.raises(KeyError, match="lost"):
        run.to_pandas(["loss", "lost"])


def test_the_history_that_counts_or_an_attempts_own(tmp_path: Path) -> None:
    run = open_run(
        write_run(
            tmp_path / "run",
            {"loss": [0.0, 1.0, 2.0, 3.0, 20.0, 30.0], "lr": [None, None, None, 0.3, None, None]},
            steps=[0, 1, 2, 3, 2, 3],
            attempt=[0, 0, 0, 0, 1, 1],
        )
    )
    assert run.to_pandas()["loss"].tolist() == [0, 1, 20, 30]
    assert run.to_pandas(attempt=0)["loss"].tolist() == [0, 1, 2, 3]
    assert spelled(run.to_pandas(attempt=0)["lr"]) == ["null", "null", "null", "0.3"]
    assert spelled(run.to_pandas(["lr"])["lr"]) == ["null"] * 4


def test_steps_that_one_table_alone_has_are_rows(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run", {"loss": [1.0, 2.0, 3.0]}, steps=[0, 2, 4])
    keys = {"attempt": [0] * 3, "step": [1, 2, 9], "rank": [0] * 3}
    (root / "batches").mkdir()
    pa.parquet.write_table(pa.table({**keys, "batch_index": [1, 2, 9]}), root / "batches" / "part-000000.parquet")
    frame = open_run(root).to_pandas()
    assert frame.index.tolist() == [0, 1, 2, 4, 9]
    assert spelled(frame["loss"]) == ["1.0", "null", "2.0", "3.0", "null"]
    assert spelled(frame["batch_index"]) == ["null", "1.0", "2.0", "null", "9.0"]
    assert open_run(root).to_pandas(["loss"]).index.tolist() == [0, 2, 4]


def test_ranks_are_averaged_and_a_single_one_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,rank,loss\n0,0,1\n0,1,3\n1,0,2\n1,1,\n")
    frame = open_run(tmp_path / "metrics.csv").to_pandas()
    assert spelled(frame["loss"]) == ["2.0", "2.0"]
    assert spelled(frame["loss/rank1"]) == ["3.0", "null"]


def test_a_frame_can_be_changed_without_effect_on_the_run(gaps: Run) -> None:
    frame = gaps.to_pandas()
    frame.loc[0, "loss"] = 9.0
    loss = gaps.series("loss")
    assert loss is not None and loss.value[0] == 1.0 and gaps.to_pandas()["loss"].iloc[0] == 1.0
