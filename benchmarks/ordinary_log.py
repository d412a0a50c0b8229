"""What people have: a log of 500 rows as CSV, JSON lines and Hugging Face's trainer_state.json, and a long CSV.

`postmortem draft` is measured against commands that only import what it stands on, and beside other programs that judge
training logs: runmedic, losslint and trainspotter, from the extra `bench` or from the environment that --rivals names.
The loss has one spike, at a step that is known.
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from _measure import POSTMORTEM, Cost, cost, cost_cells, interleave, machine, options, publish, say, spread

ROWS, LONG_ROWS, COLUMNS = 500, 1_000_000, 12
SPIKE_AT, SPIKE_ROWS = 0.6, 12  # share of the run; rows
LONG_ASKED_S, LONG_ROUNDS = 3.0, 3
PATIENCE_S = 30  # of CPU, for another program on the long CSV
NAMES = ("log.csv", "log.jsonl", "trainer_state.json")
PICTURES = "draft log.csv, pictures drawn"
RIVALS = {"runmedic": "diagnose", "losslint": "check", "trainspotter": "analyze"}
IMPORTS = """
import sys
import typer

app = typer.Typer(add_completion=False)


@app.command()
def imports(modules: list[str]) -> None:
    import importlib

    for module in modules:
        importlib.import_module(module)


app()
"""
RUN_AND_IGNORE = ("sh", "-c", '"$@" >/dev/null 2>&1; true', "sh")  # a finding is an exit code for some of them
RUN_FOR_A_WHILE = ("sh", "-c", f'ulimit -t {PATIENCE_S}; "$@" >/dev/null 2>&1; true', "sh")


def write_logs(folder: Path) -> int:
    """The three small logs; the step of their spike."""
    draw, spike = random.Random(0), int(SPIKE_AT * ROWS)
    rows: list[dict[str, float]] = []
    for row in range(ROWS):
        inside = spike <= row < spike + SPIKE_ROWS
        level = 1 + 4 * math.exp(-row / 200) + (3 * (1 - (row - spike) / SPIKE_ROWS) if inside else 0)
        norm = (6 if spike - 1 <= row < spike + SPIKE_ROWS else 1) * draw.gauss(1, 0.05)
        rows.append(
            {
                "step": 10 * row,
                "loss": round(level + draw.gauss(0, 0.03), 4),
                "grad_norm": round(norm, 4),
                "learning_rate": 3e-4,
                "epoch": round(row / 100, 2),
            }
        )
    csv, lines, state = (folder / name for name in NAMES)
    csv.write_text(",".join(rows[0]) + "\n" + "".join(",".join(map(str, row.values())) + "\n" for row in rows))
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    state.write_text(json.dumps({"global_step": rows[-1]["step"], "log_history": rows}))
    return 10 * spike


def write_long(path: Path, rows: int) -> None:
    """A CSV of so many rows and twelve columns, whose loss has one spike."""
    draw, spike = random.Random(1), int(SPIKE_AT * rows)
    with path.open("w") as file:
        file.write("step,loss,grad_norm,lr," + ",".join(f"m{k}" for k in range(COLUMNS - 4)) + "\n")
        for row in range(rows):
            loss = 2 + 2 * math.exp(-row / rows) + draw.random() / 10 + 3 * (spike <= row < spike + 50)
            file.write(
                f"{row},{loss:.5f},{1 + draw.random():.4f},0.0003" + f",{draw.random():.5f}" * (COLUMNS - 4) + "\n"
            )


def reported(command: Sequence[str], step: int) -> str:
    """What a program prints about a log: whether it names the step of the spike, or one of the next, or the last."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    words = done.stdout + done.stderr
    if any(re.search(rf"\b{near}\b", words) for near in range(step - 10, step + 11, 10)):
        return f"the spike at step {step}"
    return "a spike, at other steps" if "spike" in words.lower() else "no spike"


def main() -> None:
    parser = options(__doc__ or "", rounds=7)
    parser.add_argument("--rivals", type=Path, default=Path(sys.executable).parent, help="folder of their commands")
    parser.add_argument("--rows", type=int, default=LONG_ROWS, help="rows of the long CSV")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spike = write_logs(folder)
        say(f"writing a CSV of {arguments.rows:,} rows")
        write_long(folder / "long.csv", arguments.rows)
        (folder / "imports.py").write_text(IMPORTS)
        publish(
            "ordinary-log",
            page(folder, spike, arguments.rows, arguments.rounds, arguments.rivals),
            write=arguments.write,
        )


def page(folder: Path, spike: int, long_rows: int, rounds: int, rivals: Path) -> str:
    """The tables."""
    imports = (sys.executable, str(folder / "imports.py"), "numpy", "pyarrow.csv")
    judged = {f"draft {name} --json": (*POSTMORTEM, "draft", str(folder / name), "--json") for name in NAMES}
    places = ("--out", str(folder / "out"), "--lessons", str(folder / "lessons.md"))
    commands: dict[str, Sequence[str]] = {
        "imports": imports,
        "imports with matplotlib": (*imports, "matplotlib.figure"),
        **judged,
        PICTURES: (*POSTMORTEM, "draft", str(folder / NAMES[0]), *places),
    }
    programs = {rival: rivals / rival for rival in RIVALS if shutil.which(rivals / rival)}
    for rival, program in programs.items():
        for name in NAMES:
            words = (*RUN_AND_IGNORE, str(program), RIVALS[rival], str(folder / name))
            commands[f"{rival} {RIVALS[rival]} {name}"] = words
    costs = interleave(_measured(commands), rounds)
    say("the long CSV")
    long = str(folder / "long.csv")
    long_costs = interleave(_measured({"postmortem draft --json": (*POSTMORTEM, "draft", long, "--json")}), LONG_ROUNDS)
    for rival, program in programs.items():
        words = (*RUN_FOR_A_WHILE, str(program), RIVALS[rival], long)
        long_costs[f"{rival} {RIVALS[rival]}"] = [cost(words, one_thread=True)]
    lines = [
        f"| command, on a log of {ROWS} rows | CPU, s | wall, s | peak memory, MB | it reports |",
        "| --- | --- | --- | --- | --- |",
        f"| imports numpy and pyarrow.csv by typer | {cost_cells(costs['imports'])} | – |",
        f"| imports matplotlib.figure as well | {cost_cells(costs['imports with matplotlib'])} | – |",
    ]
    for shown, words in commands.items():
        if not shown.startswith("imports"):
            asked = words[len(RUN_AND_IGNORE) :] if words[0] == "sh" else words
            lines.append(f"| `{shown}` | {cost_cells(costs[shown])} | {reported(asked, spike)} |")
    lines += [
        "",
        *(f"`{shown}`: {_ratio(costs[shown], costs['imports'], 1.4)} of the imports." for shown in judged),
        f"`{PICTURES}`: {_ratio(costs[PICTURES], costs['imports with matplotlib'], 1.5)} of all imports.",
        "",
        f"| command, on a CSV of {long_rows:,} rows × {COLUMNS} | CPU, s | wall, s | peak memory, MB |",
        "| --- | --- | --- | --- |",
        *(f"| `{shown}` | {_long_cells(measured)} |" for shown, measured in long_costs.items()),
        "",
        f"At most {LONG_ASKED_S:g} s asked for. Medians (min–max) of {rounds} interleaved rounds, on the long CSV",
        f"of {LONG_ROUNDS} for `postmortem` and one for the others, on {machine()}.",
        "Where the clock shows much more than the CPU, other programs shared the cores.",
    ]
    return "\n".join(lines)


def _long_cells(costs: Sequence[Cost]) -> str:
    if costs[0].cpu_s >= PATIENCE_S - 0.5:
        return f"stopped after {PATIENCE_S} | – | –"
    return cost_cells(costs)


def _measured(commands: Mapping[str, Sequence[str]]) -> dict[str, Callable[[], Cost]]:
    return {name: lambda words=words: cost(words, one_thread=True) for name, words in commands.items()}


def _ratio(costs: Sequence[Cost], imports: Sequence[Cost], asked: float) -> str:
    ratios = [a.cpu_s / b.cpu_s for a, b in zip(costs, imports, strict=True)]
    return f"**{spread(ratios)}** times the CPU (at most {asked:g} was asked for)"


if __name__ == "__main__":
    main()
