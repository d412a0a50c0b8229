"""postmortem writes the post-mortem of a training run that went wrong, with ranked causes and their evidence.

    import postmortem as pm

    run = pm.open_run("runs/exp7")
    pm.diagnose(run)  # a notebook shows the report
    pm.compare("runs/exp6", run)
    run.to_pandas(["loss", "grad_norm"])

Importing the package imports nothing heavy (no numpy, pandas, matplotlib or torch): the module of each name is imported
at the first use of the name. docs/python.md shows all of them in use.
"""

from __future__ import annotations

import importlib

from postmortem.version import __version__

TYPE_CHECKING = False  # as in typing, which takes longer to import than all else here
if TYPE_CHECKING:
    from typing import Any

    from postmortem.api import compare, diagnose
    from postmortem.diagnosis import Diagnosis
    from postmortem.diff import RunsDiff
    from postmortem.errors import PostmortemError
    from postmortem.record import Recorder
    from postmortem.run import Run
    from postmortem.sources import open_run

__all__ = [
    "Diagnosis",
    "PostmortemError",
    "Recorder",
    "Run",
    "RunsDiff",
    "__version__",
    "compare",
    "diagnose",
    "open_run",
]

_HOMES = {
    "Diagnosis": "diagnosis",
    "PostmortemError": "errors",
    "Recorder": "record",
    "Run": "run",
    "RunsDiff": "diff",
    "compare": "api",
    "diagnose": "api",
    "open_run": "sources",
}


if not TYPE_CHECKING:  # to a type checker a module with a __getattr__ has every name, the misspelt ones as well

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
