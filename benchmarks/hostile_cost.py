"""CPU time and peak memory of commands on inputs that are unusually wide or long, each next to what was asked for.

A further case is a function that writes the input into a folder, and a `Case` in CASES.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from _measure import POSTMORTEM, cost, interleave, machine, options, publish, say, spread
from hostile_inputs import make_checkpoints, make_journal

if TYPE_CHECKING:
    import numpy as np

_WIDE_ROWS, _WIDE_COLUMNS = 1_000, 5_000
_LONG_ROWS = 10_000_000
_CHECKPOINTS, _EVENTS = 10_000, 1_000_000
_MAKE = (sys.executable, __file__, "--make")


@dataclass(frozen=True)
class Case:
    """One input and one command on it: `make` writes it into a folder, `words` follow `postmortem`, with the paths in
    that folder as `{folder}`. None: nothing was asked for."""

    title: str
    make: Callable[[Path], None]
    words: tuple[str, ...]
    most_cpu_s: float | None = None
    most_mb: float | None = None


def wide(folder: Path) -> None:
    """wide.parquet: a loss, and a column for each of thousands of layers."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    columns = {"step": np.arange(_WIDE_ROWS), "loss": _loss(_WIDE_ROWS)}
    for layer in range(_WIDE_COLUMNS - len(columns)):
        columns[f"act_rms/layer{layer}"] = np.exp(0.05 * rng.standard_normal(_WIDE_ROWS))
    pq.write_table(pa.table(columns), folder / "wide.parquet")


def long(folder: Path) -> None:
    """a.parquet: 10^7 steps with one spike. b.parquet: the same, but for its last bits in the last fifth."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    step, loss = np.arange(_LONG_ROWS), _loss(_LONG_ROWS)
    pq.write_table(pa.table({"step": step, "loss": loss}), folder / "a.parquet")
    last = loss[_LONG_ROWS * 4 // 5 :]
    last *= 1 + 1e-9 * np.random.default_rng(3).standard_normal(last.size)
    pq.write_table(pa.table({"step": step, "loss": loss}), folder / "b.parquet")


def _loss(rows: int) -> np.ndarray:
    """float64[rows]: it falls by a power law with even noise, and has one spike of 1.4 nats."""
    import numpy as np

    loss = 2.2 + 8.8 * (1 + np.arange(rows) / 200) ** -0.42 + 0.02 * np.random.default_rng(2).standard_normal(rows)
    loss[rows * 3 // 5 :][:60] += 1.4 * np.exp(-np.arange(60) / 12)
    return loss


def checkpoints(folder: Path) -> None:
    """checkpoints/: a run with thousands of checkpoints, each as small as one can be."""
    make_checkpoints(folder / "checkpoints", _CHECKPOINTS)


def journal(folder: Path) -> None:
    """journal/: a run whose journal has events of every kind, far more than rows."""
    make_journal(folder / "journal", _EVENTS)


CASES = (
    Case(
        f"`draft --json`, Parquet of {_WIDE_ROWS:,} steps × {_WIDE_COLUMNS:,} columns",
        wide,
        ("draft", "{folder}/wide.parquet", "--json"),
        most_cpu_s=8,
    ),
    Case(
        f"`draft --json`, Parquet of {_LONG_ROWS:,} steps × 2 columns",
        long,
        ("draft", "{folder}/a.parquet", "--json"),
        most_mb=600,
    ),
    Case(
        f"`diff --json`, two Parquet files of {_LONG_ROWS:,} steps × 2 columns",
        long,
        ("diff", "{folder}/a.parquet", "{folder}/b.parquet", "--json"),
        most_mb=1_100,
    ),
    Case(
        f"`checkpoints --fast`, {_CHECKPOINTS:,} checkpoints",
        checkpoints,
        ("checkpoints", "{folder}/checkpoints", "--fast"),
        most_cpu_s=5,
    ),
    Case(f"`doctor`, {_CHECKPOINTS:,} checkpoints", checkpoints, ("doctor", "{folder}/checkpoints")),
    Case(
        f"`draft --json`, a journal of {_EVENTS:,} events",
        journal,
        ("draft", "{folder}/journal", "--json"),
        most_cpu_s=10,
        most_mb=400,
    ),
)


def main() -> None:
    if sys.argv[1:2] == ["--make"]:
        makers = {case.make.__name__: case.make for case in CASES}
        makers[sys.argv[2]](Path(sys.argv[3]))
        return
    arguments = options(__doc__ or "", rounds=3).parse_args()
    rows: list[str] = []
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for maker in dict.fromkeys(case.make for case in CASES):
            say(f"making the input {maker.__name__} …")
            cost((*_MAKE, maker.__name__, folder))
            for case in (case for case in CASES if case.make is maker):
                row, over = _measure(case, folder, arguments.rounds)
                rows.append(row)
                missed += over
    table = "\n".join(rows)
    publish(
        "hostile-cost",
        f"""| command and input | CPU, s | asked for | peak memory, MB | asked for |
| --- | --- | --- | --- | --- |
{table}

Whole processes, start and imports among them. Medians (min–max) of {arguments.rounds} rounds on
{machine()}.""",
        write=arguments.write,
    )
    if missed:
        raise SystemExit("; ".join(missed))


def _measure(case: Case, folder: str, rounds: int) -> tuple[str, list[str]]:
    """(the table's row of a case, what it missed)."""
    words = tuple(word.format(folder=folder) for word in case.words)
    say(case.title)
    costs = interleave({"command": lambda: cost((*POSTMORTEM, *words))}, rounds)["command"]
    cpu, peak = [c.cpu_s for c in costs], [c.peak_bytes / 1e6 for c in costs]
    limits = ((cpu, case.most_cpu_s, "s of CPU"), (peak, case.most_mb, "MB"))
    missed = [
        f"{case.title}: {statistics.median(values):.1f} {unit}, at most {most:g} were asked for"
        for values, most, unit in limits
        if most is not None and statistics.median(values) > most
    ]
    asked = ["–" if most is None else f"≤ {most:,g}" for _, most, _ in limits]
    return f"| {case.title} | {spread(cpu)} | {asked[0]} | {spread(peak, '.0f')} | {asked[1]} |", missed


if __name__ == "__main__":
    main()
