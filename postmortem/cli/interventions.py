"""`postmortem interventions`."""

from __future__ import annotations

from postmortem.cli._output import print_table


def interventions() -> None:
    """List what a replay can change.

    \b
    Examples:
      postmortem interventions
      postmortem replay RUN --change lr-scale=0.5 --change clip=0.5
    """
    from postmortem.interventions import intervention_classes

    rows = [(_usage(name, kind.usage), kind.summary) for name, kind in intervention_classes().items()]
    print_table(sorted(rows))


def _usage(name: str, value: str) -> str:
    """NAME=VALUE; a value in brackets may be left out."""
    return f"{name}[={value[1:]}" if value.startswith("[") else f"{name}={value}"
