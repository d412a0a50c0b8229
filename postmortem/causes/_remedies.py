"""Changes that several causes propose, each with its side effect in figures from the run."""

from __future__ import annotations

import numpy as np

from postmortem.case import Case
from postmortem.diagnosis import Remedy
from postmortem.text import number


def skip(case: Case, window: tuple[int, int]) -> Remedy:
    """Skip the suspect batches on a replay; costs their tokens."""
    first, last = window
    count = last - first
    tokens = case.series("tokens")
    total = case.run.manifest.tokens_per_step
    if tokens is not None:
        used = tokens.window(case.onset, case.onset + count * case.row_step)
        cost = f"costs {number(float(np.nansum(used.value)))} tokens ({count} of the run's batches)"
    elif total:
        cost = f"costs {number(float(total * count))} tokens ({count} batches)"
    else:
        cost = f"costs {count} batches of data; tokens per batch are not recorded"
    start = f" from the checkpoint at step {case.checkpoint.step}" if case.checkpoint else ""
    return Remedy(f"Replay{start} without batches [{first}, {last}).", cost)


def lower_clip(case: Case) -> Remedy:
    """A clip threshold at twice the usual norm, and on what share of the recorded steps it would have engaged."""
    series, usual = case.series("grad_norm"), case.level("grad_norm")
    if series is None or usual is None:
        return Remedy(
            "Clip the gradient norm.", "the threshold cannot be chosen: grad_norm is not logged, log it before clipping"
        )
    finite = series.value[np.isfinite(series.value)]
    threshold = float(f"{2 * usual:.2g}")
    share = 100 * float(np.mean(finite > threshold))
    clip = case.series("clip_threshold")
    now = clip.at(case.onset) if clip is not None else None
    before = f"from {number(now)} " if now is not None and now > threshold else ""
    if now is not None and now <= threshold:
        late = 100 * float(np.mean(finite > now))
        why = f"it engages on {number(late)} % of the recorded steps already; lower would clip ordinary steps harder"
        return Remedy(f"Lower the clip threshold of {number(now)}.", declined=why)
    return Remedy(
        f"Lower the clip threshold {before}to {number(threshold)} (twice the usual pre-clip norm of {number(usual)}).",
        f"would have engaged on {number(share)} % of the {finite.size} recorded steps; it bounds the damage of the "
        "update, not the loss of the batch itself",
    )


def roll_back(case: Case, then: str) -> Remedy:
    """Go back to the newest checkpoint before the onset, and what that loses."""
    if case.checkpoint is None:
        return Remedy(
            f"Restart from scratch ({then}): no checkpoint from before the onset is held.",
            f"loses all {case.onset} steps; write a rollback checkpoint every 100 steps next time",
        )
    lost = int(case.run.row_steps[-1]) - case.checkpoint.step + 1
    reset = "; it holds parameters only, so that restoring it resets the optimizer"
    return Remedy(
        f"Revert to the checkpoint at step {case.checkpoint.step}, the last one before the onset, and {then}.",
        f"re-trains the {lost} steps since{reset if case.checkpoint.parameters_only else ''}",
    )
