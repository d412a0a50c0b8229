"""Importing the room costs nothing; a class that cannot be had says what to install."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import postmortem.frameworks
from postmortem.errors import MissingExtra

pytestmark = pytest.mark.processes


def test_nothing_is_imported_until_it_is_asked_for() -> None:
    code = (
        "import sys, postmortem.frameworks; sys.exit(bool({'torch', 'transformers', 'lightning'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_name_leads_to_its_class() -> None:
    pytest.importorskip("torch")
    assert postmortem.frameworks.TorchLoop.__name__ == "TorchLoop"
    with pytest.raises(AttributeError, match="NoLoop"):
        getattr(postmortem.frameworks, "NoLoop")  # noqa: B009 - a type checker would not let it through


@pytest.mark.parametrize(
    ("name", "extra", "packages"),
    [
        ("TorchLoop", "train", ["xxhash"]),
        ("HuggingFaceLoop", "huggingface", ["transformers", "transformers.trainer_callback"]),
        ("LightningLoop", "lightning", ["lightning", "lightning.pytorch", "pytorch_lightning"]),
    ],
)
def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, name: str, extra: str, packages: list[str]) -> None:
    if extra != "train":
        pytest.importorskip("torch")
        for module in (f"postmortem.frameworks.{extra}.record", f"postmortem.frameworks.{extra}.replay"):
            monkeypatch.delitem(sys.modules, module, raising=False)
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"training-postmortem\[{extra}\]"):
        getattr(importlib.import_module("postmortem.frameworks"), name)
