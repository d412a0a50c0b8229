"""Without the package, importing a callback says what to install."""

from __future__ import annotations

import importlib
import sys

import pytest

from postmortem.errors import MissingExtra


@pytest.mark.parametrize(
    ("module", "extra", "packages"),
    [
        ("huggingface", "huggingface", ["transformers", "transformers.trainer_callback"]),
        ("lightning", "lightning", ["lightning", "lightning.pytorch", "pytorch_lightning"]),
    ],
)
def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, module: str, extra: str, packages: list[str]) -> None:
    name = f"postmortem.frameworks.{module}.record"
    monkeypatch.delitem(sys.modules, name, raising=False)
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"training-postmortem\[{extra}\]"):
        importlib.import_module(name)
