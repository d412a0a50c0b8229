"""The Python interface: `pm.diagnose` and `pm.compare`, for open runs or for their paths.

This module also teaches notebooks to show a diagnosis and a diff, because it may import both records and renderers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from postmortem import notebook_page, pipeline
from postmortem.detectors import watchdog_mode
from postmortem.diagnosis import Diagnosis, PanelReading
from postmortem.diff import RunsDiff, diff_runs
from postmortem.diff.render import markdown
from postmortem.report import render
from postmortem.run import Run
from postmortem.sources import open_run

_ModeName = Literal["all", "watchdog"]


def diagnose(
    run: Run | str | Path,
    *,
    baseline: Run | str | Path | None = None,
    mode: _ModeName = "all",
    ratio: float | None = None,
    sustain: int | None = None,
    history: int | None = None,
    text: bool = True,
) -> Diagnosis:
    """What went wrong in `run`, and what the evidence favors: `postmortem draft` without its files.

    A notebook shows the result as the report. It contains `incidents`, worst first, each with its onset, peak and
    recovery (steps), evidence (weights in log-odds) and ranked `hypotheses`; docs/diagnosis.md describes every field.

    Args:
        run: a run, or the path of one.
        baseline: another run; what happened there at the same batch or step is evidence for data or for state.
        mode: "watchdog" counts only a loss that stays above its rolling baseline; "all" any column's departure.
        ratio: of the watchdog: how many times its baseline a loss must exceed; its own default is 1.25.
        sustain: of the watchdog: for how many rows; 10.
        history: of the watchdog: the rows before, whose median is the baseline; 1,000.
        text: False keeps training text out of the report (private data).

    Raises:
        UnreadableInput: a path cannot be read as a run.
        ValueError: the mode does not exist, or a setting of the watchdog makes no sense or is given without it.

    Example:
        >>> pm.diagnose("sample_runs/19-spike-001").verdict
        'supported'
    """
    if mode not in get_args(_ModeName):
        raise ValueError(f"mode={mode!r}: expected one of {', '.join(map(repr, get_args(_ModeName)))}")
    search = watchdog_mode(mode, ratio=ratio, sustain=sustain, history=history)
    sibling = None if baseline is None else _opened(baseline)
    return pipeline.diagnose(_opened(run), text=text, mode=search, baseline=sibling)


def compare(a: Run | str | Path, b: Run | str | Path) -> RunsDiff:
    """Compare run `b` with run `a`: where they diverge, why, and whether they converge again. `runs-diff A B` as an
    object.

    A notebook shows the result as a page. Its `verdict` is "identical", "equivalent", "transient", "recovered",
    "lingering" or "different"; `divergence` is the first step at which they differ, `gap()` the loss of b − a in nats
    per token.

    Args:
        a: a run, or the path of one.
        b: the run that is compared with it, or its path.

    Raises:
        UnreadableInput: a path cannot be read as a run.

    Example:
        >>> pm.compare("sample_runs/19-clean-001", "sample_runs/19-spike-001").divergence.step
        312
    """
    return diff_runs(_opened(a), _opened(b))


def _opened(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else open_run(run)


def _report(diagnosis: Diagnosis) -> str:
    """The report on the worst incident without its pictures, which are files that a notebook does not have."""
    incidents = [replace(i, overview="", panels=_without_pictures(i.panels)) for i in diagnosis.incidents]
    quiet_panels = _without_pictures(diagnosis.quiet_panels)
    return render(replace(diagnosis, incidents=tuple(incidents), quiet_panels=quiet_panels))


def _without_pictures(panels: tuple[PanelReading, ...]) -> tuple[PanelReading, ...]:
    return tuple(replace(panel, image="") for panel in panels)


def _page(diff: RunsDiff) -> str:
    return markdown(diff)


notebook_page.markdown.register(Diagnosis, _report)
notebook_page.markdown.register(RunsDiff, _page)
