"""Sets any one key of the config, for changes without an intervention of their own."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from postmortem.change import Change, Window
from postmortem.errors import UsageError
from postmortem.interventions import Intervention, ReplayContext
from postmortem.interventions._values import refused
from postmortem.small_file import parse_json
from postmortem.text import plain


class SetKey(Intervention):
    """KEY is dotted and must exist in the run's config; VALUE is JSON, or plain text otherwise."""

    name = "set"
    usage = "KEY=VALUE"
    summary = "build the program with another value of one key of its config"

    def __init__(self, change: Change) -> None:
        self._key, text = change.key, str(change.values[0]) if len(change.values) == 1 else ""
        if not self._key or change.windows or len(change.values) != 1:
            raise refused(change, self.usage)
        try:
            self._value: Any = parse_json(text)
        except ValueError:
            self._value = text

    @property
    def text(self) -> str:
        return f"{plain(self._key, 60)} = {plain(json.dumps(self._value), 80)}"

    def idle(self, context: ReplayContext, consumed: Sequence[Window]) -> str:
        config = context.recorded.config
        return "the run's config has that value already" if self.configured(config) == config else ""

    def configured(self, config: dict[str, Any]) -> dict[str, Any]:
        changed = copy.deepcopy(config)
        target: Any = changed
        *above, last = self._key.split(".")
        for name in above:
            target = target.get(name) if isinstance(target, dict) else None
        if not isinstance(target, dict) or last not in target:
            raise UsageError(f"{self.text}: the run's config has no such key")
        target[last] = self._value
        return changed


INTERVENTION = SetKey
