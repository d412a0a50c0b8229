"""docs/replay-your-loop.md, followed to the letter: its files are run, and then its commands."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from postmortem.cli import main
from postmortem.sources import open_run

ROOT = Path(__file__).parent.parent
TITLE, *PARTS = re.split(r"^## ", (ROOT / "docs" / "replay-your-loop.md").read_text(), flags=re.MULTILINE)
SECTIONS = {part.partition("\n")[0]: part for part in PARTS if "```python" in part}
NEEDS = {"Hugging Face": "transformers", "Lightning": "lightning"}
SKIPPED = {"Your own loop": (60, [70]), "Hugging Face": (10, [12, 13]), "Lightning": (10, [12, 13])}


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", SECTIONS[section], flags=re.MULTILINE | re.DOTALL)


def run_command(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python FILE` or `postmortem …`, in this process: importing the frameworks anew takes longer than the rest."""
    program, *words = shlex.split(line)
    if program == "python":
        runpy.run_path(words[0], run_name="__main__")
        return
    assert program == "postmortem"
    monkeypatch.setattr(sys, "argv", [program, *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, line


@pytest.mark.heavy
@pytest.mark.filterwarnings("default")  # of the Trainers and their parts
@pytest.mark.parametrize("section", SECTIONS)
def test_the_page_as_it_is_printed(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torch", "xxhash", NEEDS.get(section, "torch")):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (code,) = blocks(section, "python")
    named = re.match(r"# (\w+\.py)\n", code)
    assert named is not None
    Path(named[1]).write_text(code)
    commands = [line[2:] for block in blocks(section, "console") for line in block.splitlines() if "pip " not in line]
    assert [command.split()[0] for command in commands] == ["python", "postmortem", "postmortem"]
    for command in commands:
        run_command(command, monkeypatch)
    (run,) = Path("runs").iterdir()
    null, skip = sorted((run / "postmortem" / "replays").iterdir())
    assert json.loads((null / "replayed.json").read_text())["differences"] == []
    first, missing = SKIPPED[section]
    index = open_run(skip).series("batch_index")
    assert index is not None
    until = first + json.loads((skip / "replayed.json").read_text())["steps"]
    consumed = index.value[(index.step >= first) & (index.step < until)].astype(int).tolist()
    assert consumed == [n for n in range(first, until + len(missing)) if n not in missing]


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", "".join((TITLE, *PARTS))):
        assert (ROOT / "docs" / target).exists(), target
