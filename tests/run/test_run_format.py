"""docs/run-format.md describes what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from postmortem.run.columns import CANONICAL
from postmortem.run.manifest import Manifest
from postmortem.sources import open_run

DOCUMENT = Path(__file__).parents[2] / "docs" / "run-format.md"
TEXT = DOCUMENT.read_text("utf-8")


def test_every_canonical_column_is_in_the_table() -> None:
    table = TEXT.split("<!-- columns: begin -->\n")[1].split("<!-- columns: end -->")[0]
    rows = [f"| `{c.name}` | {c.unit} | {c.meaning} |\n" for c in CANONICAL.values()]
    assert table == "| column | unit | meaning |\n| --- | --- | --- |\n" + "".join(rows)


def test_every_manifest_key_is_documented() -> None:
    section = TEXT.split("## run.json")[1].split("\n## ")[0]
    keys = set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE))
    assert keys == set(Manifest.__dataclass_fields__) - {"raw"} | {"format_version"}


def test_the_example_writes_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    exec(compile(code[1], str(DOCUMENT), "exec"), {})
    run = open_run("runs/by-hand")
    loss = run.series("loss")
    assert run.notes == () and run.id == "by-hand" and run.manifest.seed == 1234
    assert loss is not None and len(loss) == 300 and run.journal[-1].keys["status"] == "completed"
