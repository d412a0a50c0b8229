"""Write README's four commands with their real output and the notebook that they keep, or report whether these are
stale (`--check`).

The commands run on a copy of a sample run, one after another, as a reader would run them. A draft of another run adds a
suspicion to the notebook. Seconds are left out of the comparison. The commands compute as the sample run did. On a
machine that cannot, figures differ in their last digits: then only the commands, the verdict, the batch, the checks
that pass and the headings of the notebook are compared.
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

SUSPECTED = Path("sample_runs/20-run-002")
NULL = SAMPLE / "postmortem/replays/prove-312/R0/replayed.json"
COMMANDS = (
    f"postmortem draft {SAMPLE}",
    f"postmortem prove {SAMPLE}",
    f"postmortem bisect {SAMPLE}",
    f"postmortem verify {SAMPLE}/postmortem/diagnosis.json",
)
_WIDTH = "100"
_MARK = re.compile(r" <!-- (run|lesson) .*? -->")
_TIMES = re.compile(r"\d[\d.]* s\b")


def outputs() -> tuple[dict[str, str], list[str]]:
    """(block of README → its text, how this machine's arithmetic differs from the run's)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_sample(folder)
        copy_sample(folder, SUSPECTED)
        printed = [f"$ {command}\n{_in_order(_output(command, folder))}" for command in COMMANDS]
        _output(f"postmortem draft {SUSPECTED}", folder)
        notebook = (folder / "lessons.md").read_text("utf-8")
        arithmetic: list[str] = json.loads((folder / NULL).read_text("utf-8"))["arithmetic"]
    return {"proof": "```console\n" + "\n".join(printed) + "```", "notebook": _as_shown(notebook)}, arithmetic


def _output(command: str, folder: Path) -> str:
    words = [sys.executable, "-m", *command.split()]
    process = subprocess.run(
        words, cwd=folder, env=environment(COLUMNS=_WIDTH), capture_output=True, text=True, check=False
    )
    if process.returncode:
        raise SystemExit(f"{command}: exit {process.returncode}\n{process.stderr}")
    return process.stdout


def _as_shown(notebook: str) -> str:
    """The notebook as a Markdown viewer shows it, as a quotation; its links would lead nowhere here."""
    text = re.sub(r"\[report\]\([^)]*\)", "report", _MARK.sub("", notebook)).rstrip()
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


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
    return [re.sub(r"[\d.]+", "…", line) for line in lines if re.match(r"\$ |verdict|found|pass|FAIL|> #", line)]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if README is stale")
    check: bool = parser.parse_args().check
    fresh, arithmetic = outputs()
    readme, stale = README.read_text("utf-8"), list[str]()
    for block, text in fresh.items():
        before, committed, after = between_markers(readme, block)
        readme = f"{before}{text}{after}"
        if _compared(committed, exact=not arithmetic) != _compared(text, exact=not arithmetic):
            stale.append(f"README.md: the block {block} differs:\n{text}")
    if not check:
        README.write_text(readme, "utf-8")
        print("written")
    elif stale:
        sys.exit("\n".join((*stale, "Write it with: make proof")))
    else:
        print(f"fresh, by verdicts: the arithmetic differs ({'; '.join(arithmetic)})" if arithmetic else "fresh")


if __name__ == "__main__":
    main()
