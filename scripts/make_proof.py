"""Write README's four commands with their real output, or report whether it is stale (`--check`).

The commands run on a copy of a sample run, one after another, as a reader would run them. Seconds are left out of the
comparison. The commands compute as the sample run did. On a machine that cannot, figures differ in their last digits:
then only the commands, the verdict, the batch and the checks that pass are compared.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from _readme import README, SAMPLE, between_markers, copy_sample, environment

NULL = SAMPLE / "postmortem/replays/prove-312/R0/replayed.json"
COMMANDS = (
    f"postmortem draft {SAMPLE}",
    f"postmortem prove {SAMPLE}",
    f"postmortem bisect {SAMPLE}",
    f"postmortem verify {SAMPLE}/postmortem/diagnosis.json",
)
_WIDTH = "100"
_TIMES = re.compile(r"\d[\d.]* s\b")


def outputs() -> tuple[str, list[str]]:
    """(the commands and what they print, as Markdown; how this machine's arithmetic differs from the run's)."""
    blocks: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        copy_sample(Path(folder))
        for command in COMMANDS:
            words = [sys.executable, "-m", *command.split()]
            process = subprocess.run(
                words, cwd=folder, env=environment(COLUMNS=_WIDTH), capture_output=True, text=True, check=False
            )
            if process.returncode:
                raise SystemExit(f"{command}: exit {process.returncode}\n{process.stderr}")
            blocks.append(f"$ {command}\n{_in_order(process.stdout)}")
        arithmetic: list[str] = json.loads((Path(folder) / NULL).read_text("utf-8"))["arithmetic"]
    return "```console\n" + "\n".join(blocks) + "```", arithmetic


def _in_order(text: str) -> str:
    """`text` with the lines of the arms sorted. They end in any order, and the page must not change by itself."""
    lines = text.splitlines(keepends=True)
    arms = [number for number, line in enumerate(lines) if re.match(r"R[123] {6}(?!\d+ ×)", line)]
    for number, line in zip(arms, sorted(lines[n] for n in arms), strict=True):
        lines[number] = line
    return "".join(lines)


def _compared(text: str, *, exact: bool) -> list[str]:
    """The lines of `text` that must be equal on this machine."""
    lines = _TIMES.sub("… s", text).splitlines()
    if exact:
        return lines
    return [re.sub(r"[\d.]+", "…", line) for line in lines if re.match(r"\$ |verdict|found|pass|FAIL", line)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if README is stale")
    check: bool = parser.parse_args().check
    before, committed, after = between_markers(README.read_text(), "proof")
    fresh, arithmetic = outputs()
    if not check:
        README.write_text(f"{before}{fresh}{after}")
        print("written")
    elif _compared(committed, exact=not arithmetic) != _compared(fresh, exact=not arithmetic):
        sys.exit(f"README.md: the output of the four commands differs:\n{fresh}\nWrite it with: make proof")
    else:
        print(f"fresh, by verdicts: the arithmetic differs ({'; '.join(arithmetic)})" if arithmetic else "fresh")


if __name__ == "__main__":
    main()
