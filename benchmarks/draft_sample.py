"""What `postmortem draft` costs on a sample run, panels drawn, compared with importing the same libraries only.

The libraries are exactly those that this draft loads: it is run once to list its modules, and those that belong neither
to postmortem nor to the standard library are imported by a process that does nothing else.
"""

from __future__ import annotations

import statistics
import tempfile
import tomllib
from pathlib import Path

from _measure import POSTMORTEM, ROOT, cost, cost_cells, import_command, interleave, machine, options, publish, spread

SAMPLE = ROOT / "sample_runs" / "19-spike-001"
LIMIT = 2.0  # times the CPU of the imports


def dependencies() -> set[str]:
    """Names of the packages that postmortem declares as its dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {requirement.partition(">")[0] for requirement in project["dependencies"]}


def main() -> None:
    arguments = options(__doc__ or "", rounds=9).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out, lessons, scratch = (Path(folder) / name for name in ("out", "lessons.md", "modules"))
        words = ("draft", str(SAMPLE), "--out", str(out), "--lessons", str(lessons))
        imports, modules = import_command(words, scratch, libraries_only=True)
        costs = interleave(
            {"draft": lambda: cost((*POSTMORTEM, *words)), "imports": lambda: cost(imports)}, arguments.rounds
        )
        panels = len(list(out.rglob("*.png")))
    if panels < 2:
        raise SystemExit(f"{SAMPLE}: no incident was found, so this would not measure a whole draft")
    ratios = [draft.cpu_s / imported.cpu_s for draft, imported in zip(costs["draft"], costs["imports"], strict=True)]
    named = ", ".join(sorted(dependencies() & set(modules)))
    publish(
        "draft-sample",
        f"""| process | CPU, s | wall, s | peak memory, MB |
| --- | --- | --- | --- |
| `postmortem draft sample_runs/19-spike-001`, {panels} panels drawn | {cost_cells(costs["draft"])} |
| the same libraries imported, nothing done | {cost_cells(costs["imports"])} |

Ratio of CPU: **{spread(ratios)}**; at most {LIMIT:g} was asked for. Imported are the {len(modules):,} modules that the
draft itself loads: of {named}, and of what these import.
Medians (min–max) of {arguments.rounds} interleaved rounds on {machine()}.""",
        write=arguments.write,
    )
    if statistics.median(ratios) > LIMIT:
        raise SystemExit(f"draft costs more than {LIMIT:g}× its imports")


if __name__ == "__main__":
    main()
