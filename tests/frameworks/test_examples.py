"""The working examples: trained, replayed bit for bit, and replayed without what spoiled them."""

from __future__ import annotations

import importlib
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("torch")

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {"replay_plain": "torch", "replay_huggingface": "transformers", "replay_lightning": "lightning"}


@pytest.mark.bits
@pytest.mark.heavy
@pytest.mark.filterwarnings("default")  # of the Trainers and their parts
@pytest.mark.parametrize("name", NEEDS)
def test_the_null_replay_is_exact_and_without_the_garbage_the_spike_is_gone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    importlib.import_module(name).main(tmp_path / "run")
    null, skip = re.findall(r"^(?:null|skip): .*", capsys.readouterr().out, flags=re.MULTILINE)
    assert "every bit as recorded" in null
    assert "differs from step" in skip
    spiked, without = (float(line.rpartition(" ")[2]) for line in (null, skip))
    assert without < 0.75 * spiked
