"""The same batches in another precision: the config's own word for it is replaced before the program is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from postmortem.change import Change
from postmortem.errors import UsageError
from postmortem.interventions import Intervention
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
    """Every precision, dtype or mixed_precision of the config, and the flags fp16 and bf16, say the wanted one."""

    name = "precision"
    usage = "fp32|bf16|fp16"
    about = "train in another precision"

    def __init__(self, change: Change) -> None:
        self._wanted = word(change, self.usage)
        if self._wanted not in _VOCABULARIES[0] or len(change.values) > 1:
            raise refused(change, self.usage)

    @property
    def text(self) -> str:
        return f"precision {self._wanted}"

    def configured(self, config: dict[str, Any]) -> dict[str, Any]:
        changed, found = _changed(config, self._wanted)
        if not found:
            names = ", ".join((*_KEYS, *_FLAGS))
            raise UsageError(f"{self.text}: the run's config has none of {names}; name its key with set=KEY=VALUE")
        return changed


def _changed(config: Mapping[str, Any], wanted: str) -> tuple[dict[str, Any], bool]:
    """(config with `wanted` in it, whether it names a precision anywhere)."""
    out, found = dict(config), False
    for key, value in config.items():
        if isinstance(value, Mapping):
            out[key], inside = _changed(cast(Mapping[str, Any], value), wanted)
            found = found or inside
        elif key in _KEYS and isinstance(value, str):
            words = next((v for v in _VOCABULARIES if value in v.values()), None)
            if words is not None:
                out[key], found = words[wanted], True
        elif key in _FLAGS and isinstance(value, bool):
            out[key], found = key == wanted, True
    return out, found


INTERVENTION = Precision
