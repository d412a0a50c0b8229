"""One log in many dialects of CSV is one run, bit for bit."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postmortem.sources import open_run
from tests.sources.helpers import write

NAMES = {"step": "step", "loss": "loss", "eval_loss": "eval_loss", "lr": "lr", "grad_norm": "grad_norm"}
OWN = {"step": "Zähler", "loss": "a, b", "eval_loss": "held out", "lr": "η", "grad_norm": "§4"}
CELL = st.one_of(st.none(), st.floats(width=64), st.floats(0.5, 9, width=32), st.integers(0, 5).map(float))


def _cell(value: float | None, decimal: str) -> str:
    return "" if value is None else str(value).replace(".", decimal)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_delimiters_line_ends_and_names_change_nothing(tmp_path: Path, data: st.DataObject) -> None:
    steps = sorted(data.draw(st.sets(st.integers(0, 10_000), min_size=3, max_size=12)))
    columns: dict[str, list[float | None]] = {
        name: data.draw(st.lists(CELL, min_size=len(steps), max_size=len(steps))) for name in NAMES if name != "step"
    }
    columns["loss"] = [value if value is not None else 2.25 for value in columns["loss"]]
    plain = "step," + ",".join(columns) + "\n"
    plain += "".join(f"{t}," + ",".join(_cell(c[i], ".") for c in columns.values()) + "\n" for i, t in enumerate(steps))
    expected = open_run(write(tmp_path, "plain.csv", plain))

    delimiter = data.draw(st.sampled_from(",;\t"))
    decimal = data.draw(st.sampled_from(".,")) if delimiter != "," else "."
    quoted, renamed = data.draw(st.booleans()), data.draw(st.booleans())
    end, bom = data.draw(st.sampled_from(["\n", "\r\n"])), data.draw(st.booleans())
    names = OWN if renamed else NAMES
    table = [[names[name] for name in ("step", *columns)]]
    table += [[str(t), *(_cell(c[i], decimal) for c in columns.values())] for i, t in enumerate(steps)]
    lines = [delimiter.join(f'"{c}"' if quoted or delimiter in c else c for c in row) for row in table]
    text = "".join(line + end for line in lines).encode("utf-8-sig" if bom else "utf-8")
    run = open_run(write(tmp_path, "dialect.csv", text), OWN if renamed else None)

    assert run.row_steps.tolist() == expected.row_steps.tolist() == steps
    for name in columns:
        read, wanted = run.series(name), expected.series(name)
        text_only = name in "".join(run.notes) and "contains text" in "".join(run.notes)
        if decimal == "," and read is None and text_only:
            continue  # refused whole: no other column said what its commas are
        assert (read is None) == (wanted is None), name
        if read is not None and wanted is not None:
            np.testing.assert_array_equal(read.step, wanted.step)
            assert read.value.tobytes() == wanted.value.tobytes() or all(
                a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(read.value, wanted.value, strict=True)
            )
