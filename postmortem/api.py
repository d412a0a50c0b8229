"""What `import postmortem as pm` offers beyond single rooms: whole answers, from runs or from paths to them.

Here, where both the records and what renders them are known, notebooks learn to show a diagnosis and a diff.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

from postmortem import display, pipeline
from postmortem.diagnosis import Diagnosis, PanelReading
from postmortem.diff import RunsDiff, diff_runs
from postmortem.diff.render import markdown
from postmortem.report import render
from postmortem.run import Run
from postmortem.sources import open_run


def diagnose(
    run: Run | str | Path, *, baseline: Run | str | Path | None = None, mode: pipeline.Mode = "all", text: bool = True
) -> Diagnosis:
    """What went wrong in `run`, and what the evidence favours: `postmortem draft` without its files.

    In a notebook the result shows the report. It holds `incidents`, worst first, each with its onset, peak and recovery
    (steps), evidence (weights in log-odds) and ranked `hypotheses`; docs/diagnosis.md has every field.

    Args:
        run: a run, or the path of one.
        baseline: a sibling run; what it made of the same batch or step is evidence for data or for state.
        mode: "watchdog" counts only a loss that is held above its rolling baseline; "all" any column's departure.
        text: False keeps training text out of the report (private data).

    Raises:
        UnreadableInput: a path leads to nothing that can be read as a run.
        ValueError: no such mode.

    Example:
        >>> pm.diagnose("sample_runs/19-spike-001").verdict
        'supported'
    """
    if mode not in get_args(pipeline.Mode):
        raise ValueError(f"mode={mode!r}: expected one of {', '.join(map(repr, get_args(pipeline.Mode)))}")
    sibling = None if baseline is None else _opened(baseline)
    return pipeline.diagnose(_opened(run), text=text, mode=mode, baseline=sibling)


def compare(a: Run | str | Path, b: Run | str | Path) -> RunsDiff:
    """Hold run `b` against run `a`: where they part, why, and whether they meet again. `runs-diff A B` as an object.

    In a notebook the result shows the page. Its `verdict` is "identical", "equivalent", "recovered", "lingering" or
    "different"; `divergence` is the first step at which they differ, `gap()` the loss of b − a in nats per token.

    Args:
        a, b: runs, or paths of runs.

    Raises:
        UnreadableInput: a path leads to nothing that can be read as a run.

    Example:
        >>> pm.compare("sample_runs/19-clean-001", "sample_runs/19-spike-001").divergence.step
        312
    """
    return diff_runs(_opened(a), _opened(b))


def _opened(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else open_run(run)


def _report(diagnosis: Diagnosis) -> str:
    """The report on the worst incident without its pictures: they are files, and a notebook has no such files by it."""
    bare = [replace(one, overview="", panels=_undrawn(one.panels)) for one in diagnosis.incidents]
    return render(replace(diagnosis, incidents=tuple(bare), quiet_panels=_undrawn(diagnosis.quiet_panels)))


def _undrawn(panels: tuple[PanelReading, ...]) -> tuple[PanelReading, ...]:
    return tuple(replace(panel, image="") for panel in panels)


def _page(diff: RunsDiff) -> str:
    return markdown(diff)


display.markdown.register(Diagnosis, _report)
display.markdown.register(RunsDiff, _page)
