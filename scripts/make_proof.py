"""Write README's four commands with their real output, or (`--check`) say whether it is stale.

The commands are run on a copy of a sample run, one after another, as a reader would. Seconds are left out of the
comparison. The commands compute as the sample run did. Where this machine cannot, figures differ in their last digits:
then only the commands, the verdict, the batch and what passes are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
SAMPLE = Path("sample_runs/19-spike-001")
NULL = SAMPLE / "postmortem/replays/prove-312/R0/replayed.json"
COMMANDS = (
    f"postmortem draft {SAMPLE}",
    f"postmortem prove {SAMPLE}",
    f"postmortem bisect {SAMPLE}",
    f"postmortem verify {SAMPLE}/postmortem/diagnosis.json",
)
BEGIN, END = "<!-- begin proof -->", "<!-- end proof -->"
_WIDTH = "100"
_TIMES = re.compile(r"\d[\d.]* s\b")


def outputs() -> tuple[str, list[str]]:
    """(the commands and what they print, as Markdown; what of the run's arithmetic this machine has not)."""
    blocks: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        reports = shutil.ignore_patterns("postmortem")
        shutil.copytree(ROOT / SAMPLE, Path(folder) / SAMPLE, ignore=reports, symlinks=True)
        for command in COMMANDS:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": _WIDTH}
            words = [sys.executable, "-m", *command.split()]
            done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{command}: exit {done.returncode}\n{done.stderr}")
            blocks.append(f"$ {command}\n{_ordered(done.stdout)}")
        other: list[str] = json.loads((Path(folder) / NULL).read_text("utf-8"))["arithmetic"]
    return "```console\n" + "\n".join(blocks) + "```", other


def _ordered(text: str) -> str:
    """Arms end in the order in which processes do: sorted, so that the page does not change by itself."""
    lines = text.splitlines(keepends=True)
    arms = [number for number, line in enumerate(lines) if re.match(r"R[123] {6}(?!\d+ ×)", line)]
    for number, line in zip(arms, sorted(lines[n] for n in arms), strict=True):
        lines[number] = line
    return "".join(lines)


def _compared(text: str, *, exact: bool) -> list[str]:
    """The lines that have to be equal on this machine."""
    lines = _TIMES.sub("… s", text).splitlines()
    if exact:
        return lines
    return [re.sub(r"[\d.]+", "…", line) for line in lines if re.match(r"\$ |verdict|found|pass|FAIL", line)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where README is stale")
    check: bool = parser.parse_args().check
    readme = README.read_text()
    before, _, rest = readme.partition(BEGIN)
    kept, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{README}: no {BEGIN} … {END}")
    fresh, other = outputs()
    if not check:
        README.write_text(f"{before}{BEGIN}\n{fresh}\n{END}{after}")
        print("written")
    elif _compared(kept.strip(), exact=not other) != _compared(fresh, exact=not other):
        sys.exit(f"README.md: the output of the four commands differs:\n{fresh}\nWrite it with: make proof")
    else:
        print(f"fresh, by verdicts: other arithmetic ({'; '.join(other)})" if other else "fresh")


if __name__ == "__main__":
    main()
