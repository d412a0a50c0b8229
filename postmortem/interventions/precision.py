"""Trains the same batches in another precision: changes the config before the program is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from postmortem.change import Change, Window
from postmortem.errors import UsageError
from postmortem.interventions import Intervention, ReplayContext
from postmortem.interventions._values import refused, word

_KEYS = ("precision", "dtype", "mixed_precision")
_VOCABULARIES = (
    {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16"},
    {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"},
    {"fp32": "32-true", "fp16": "16-mixed", "bf16": "bf16-mixed"},
    {"fp32": "no", "fp16": "fp16", "bf16": "bf16"},
)
_FLAGS = ("fp16", "bf16")


class Precision(Intervention):
    """Sets every precision, dtype or mixed_precision of the config, and the flags fp16 and bf16."""

    name = "precision"
    usage = "fp32|bf16|fp16"
    summary = "train in another precision"

    def __init__(self, change: Change) -> None:
        self._precision = word(change, self.usage)
        if self._precision not in _VOCABULARIES[0] or len(change.values) > 1:
            raise refused(change, self.usage)

    @property
    def text(self) -> str:
        return f"precision {self._precision}"

    def idle(self, context: ReplayContext, consumed: Sequence[Window]) -> str:
        config = context.recorded.config
        return "the run's config has that value already" if self.configured(config) == config else ""

    def configured(self, config: dict[str, Any]) -> dict[str, Any]:
        changed, names_a_precision = _with_precision(config, self._precision)
        if not names_a_precision:
            names = ", ".join((*_KEYS, *_FLAGS))
            raise UsageError(f"{self.text}: the run's config has none of {names}; name its key with set=KEY=VALUE")
        return changed


def _with_precision(config: Mapping[str, Any], precision: str) -> tuple[dict[str, Any], bool]:
    """(config with `precision` in it, whether the config names a precision anywhere)."""
    changed, names_a_precision = dict(config), False
    for key, value in config.items():
        if isinstance(value, Mapping):
            changed[key], inside = _with_precision(cast(Mapping[str, Any], value), precision)
            names_a_precision = names_a_precision or inside
        elif key in _KEYS and isinstance(value, str):
            words = next((v for v in _VOCABULARIES if value in v.values()), None)
            if words is not None:
                changed[key], names_a_precision = words[precision], True
        elif key in _FLAGS and isinstance(value, bool):
            changed[key], names_a_precision = key == precision, True
    return changed, names_a_precision


INTERVENTION = Precision
