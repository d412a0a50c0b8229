"""What MLflow's file store and its database have in common."""

from __future__ import annotations

from postmortem.small_file import parse_json

LIMITS = ("each metric counts its own steps: MLflow does not say which count updates and which epochs",)


def is_of_machine(metric: str) -> bool:
    """Whether a metric is one of MLflow's system metrics, whose steps count its samples and not those of the run."""
    return metric.startswith("system/")


def setting(text: str) -> object:
    """A logged parameter, which is text in MLflow: a number or a truth value where it is one."""
    if text in ("True", "False"):
        return text == "True"
    try:
        value = parse_json(text) if len(text) <= 40 else text
    except ValueError:
        return text
    return value if isinstance(value, (int, float)) else text
