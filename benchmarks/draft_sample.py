"""What `postmortem draft` costs on a sample run, panels drawn, against merely importing the libraries it stands on."""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from _measure import POSTMORTEM, ROOT, cost, interleave, machine, options, publish, spread

SAMPLE = ROOT / "sample_runs" / "19-spike-001"
IMPORTS = "import numpy, pandas, pyarrow, jinja2, matplotlib.figure"
LIMIT = 2.0  # times the CPU of the imports


def main() -> None:
    arguments = options(__doc__ or "", rounds=9).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out, lessons = Path(folder) / "out", Path(folder) / "lessons.md"
        draft = (*POSTMORTEM, "draft", str(SAMPLE), "--out", str(out), "--lessons", str(lessons))
        costs = interleave(
            {"draft": lambda: cost(draft), "imports": lambda: cost((sys.executable, "-c", IMPORTS))}, arguments.rounds
        )
        panels = len(list(out.rglob("*.png")))
    if panels < 2:
        raise SystemExit(f"{SAMPLE}: no incident was found, so this would not measure a whole draft")
    ratios = [a.cpu_s / b.cpu_s for a, b in zip(costs["draft"], costs["imports"], strict=True)]
    rows = "\n".join(
        f"| {title} | {spread([c.cpu_s for c in costs[name]])} | {spread([c.wall_s for c in costs[name]])} "
        f"| {spread([c.peak_bytes / 1e6 for c in costs[name]], '.0f')} |"
        for name, title in (
            ("draft", f"`postmortem draft sample_runs/19-spike-001`, {panels} panels drawn"),
            ("imports", f'`python -c "{IMPORTS}"`'),
        )
    )
    publish(
        "draft-sample",
        f"""| process | CPU, s | wall, s | peak memory, MB |
| --- | --- | --- | --- |
{rows}

Ratio of CPU: **{spread(ratios)}**; at most {LIMIT:g} was asked for. Medians (min–max) of {arguments.rounds} interleaved
rounds on {machine()}.""",
        write=arguments.write,
    )
    if statistics.median(ratios) > LIMIT:
        raise SystemExit(f"draft costs more than {LIMIT:g}× its imports")


if __name__ == "__main__":
    main()
