"""Builds the remedies that several causes propose, each with its side effect in figures from the run, or with what the
journal says was done already."""

from __future__ import annotations

import numpy as np

from postmortem.case import Case
from postmortem.diagnosis import Remedy
from postmortem.text import count, number, plain

HALF = 0.5  # of the learning rate: the remedy where no replay has shown which share cures


def skip(case: Case, window: tuple[int, int]) -> Remedy:
    """Skip the suspect batches in a replay, which leaves out their tokens."""
    first, last = window
    if done := case.response.skipped(window):
        return Remedy(f"Replay without batches [{first}, {last}).", done=done)
    batches = last - first
    tokens = case.series("tokens")
    per_step = case.run.manifest.tokens_per_step
    if tokens is not None:
        used = tokens.window(case.onset, case.onset + batches * case.row_step)
        cost = f"leaves out {_tokens(float(np.nansum(used.value)))} ({count(batches, 'batch')} of the run)"
    elif per_step:
        cost = f"leaves out {_tokens(per_step * batches)} ({count(batches, 'batch')})"
    else:
        cost = f"leaves out {count(batches, 'batch')} of data; the log does not say how many tokens a batch has"
    start = f" from the checkpoint at step {case.checkpoint.step}" if case.checkpoint else ""
    return Remedy(f"Replay{start} without batches [{first}, {last}).", cost, once=True)


def _tokens(total: float) -> str:
    """`2,048 tokens`; a logged number of tokens may be anything, even infinite."""
    amount = f"{total:,.0f}" if abs(total) < 1e15 else number(total)
    return f"{amount} {'token' if total == 1 else 'tokens'}"


def lower_rate(case: Case) -> Remedy:
    """Lower the learning rate: to the share of it that cured the incident in a replay, else to a half."""
    if done := case.response.lowered_rate():
        return Remedy("Lower the peak learning rate.", done=done)
    side_effect = "slower progress in steps that were stable"
    factor, now = case.shown.rate, rate_at_onset(case)
    if factor is None:
        rates = "" if now is None else f" ({number(HALF * now)} instead of {number(now)} at the onset)"
        return Remedy(f"Halve the peak learning rate{rates}, or double the warmup.", side_effect)
    rates = "" if now is None else f", {number(factor * now)} instead of {number(now)} at the onset"
    too_high = [failed for failed in (case.shown.failed_rate,) if failed is not None and failed > factor]
    tried = "".join(f", and with {number(failed)} of it not" for failed in too_high)
    text = f"Lower the learning rate to {number(factor)} of it{rates}: with this a replay had no incident{tried}."
    return Remedy(text, side_effect)


def lower_clip(case: Case) -> Remedy:
    """Clip at twice the usual norm, with the share of the recorded steps that this would have clipped."""
    if done := case.response.lowered_clip():
        return Remedy("Lower the clip threshold.", done=done)
    series, usual = case.series("grad_norm"), case.level("grad_norm")
    if series is None or usual is None:
        side_effect = "no threshold can be proposed: grad_norm is not logged; log it before clipping"
        return Remedy("Clip the gradient norm.", side_effect)
    finite = series.value[np.isfinite(series.value)]
    threshold = float(f"{2 * usual:.2g}")
    share = 100 * float(np.mean(finite > threshold))
    clip = case.series("clip_threshold")
    current = clip.at(case.onset) if clip is not None else None
    change = f"from {number(current)} " if current is not None and current > threshold else ""
    if current is not None and current <= threshold:
        percent = 100 * float(np.mean(finite > current))
        reason = (
            f"it clips {number(percent)} % of the recorded steps already, and is no more than twice the usual norm of "
            f"{number(usual)}: a lower one would clip ordinary steps"
        )
        return Remedy(f"Lower the clip threshold of {number(current)}.", declined=reason)
    return Remedy(
        f"Lower the clip threshold {change}to {number(threshold)} (twice the usual pre-clip norm of {number(usual)}).",
        f"would have clipped {number(share)} % of the {finite.size:,} recorded steps; it bounds what one batch "
        "adds to the optimizer's moments; Adam's update does not shrink in proportion",
    )


def roll_back(case: Case, next_action: str = "", *, complete: bool = False, lower_rate: bool = True) -> Remedy:
    """Go back to the newest checkpoint before the onset, then do `next_action`; with the steps that this loses.

    Where the run went back already, `next_action` remains, which no journal tells. `complete`: it is no more than to
    restore the whole state, which the journal tells.

    Where no checkpoint of the run is known at all, it is the last one that its people have. Where those that are known
    are no help, it is a restart, which meets the same incident again unless something is changed: so it is
    one with a lower learning rate. `lower_rate` is False where the rate is not what is wrong.
    """
    if done := case.response.rolled_back(case.last_sound_step, complete=complete):
        if complete:
            return Remedy(f"Go back to before step {case.onset}, and {next_action}.", done=done, once=True)
        action = next_action or "replay it unchanged first"
        return Remedy(f"{action[:1].upper()}{action[1:]}; the run went back to before the onset already.", once=True)
    unknown = [checkpoint for checkpoint, health in case.passed_over if health.state == "not looked at"]
    if unknown and (case.checkpoint is None or case.checkpoint.step < unknown[0].step):
        newest, action = unknown[0], f", and {next_action}" if next_action else ""
        return Remedy(
            f"Look at {plain(newest.path.name, 100)} (postmortem checkpoints RUN), the newest checkpoint from before "
            f"the onset; if it is finite, revert to it{action}.",
            f"trains {count(int(case.run.row_steps[-1]) - newest.step + 1, 'step')} again",
            once=True,
        )
    if case.checkpoint is None:
        if not case.run.checkpoints:  # so none of them was looked at, wherever they are
            action = f", and {next_action}" if next_action else ""
            return Remedy(
                f"Use your last checkpoint from before step {case.onset}{action}: none is visible to this log.",
                "trains the steps since then again",
                once=True,
            )
        action = f" ({next_action})" if next_action else ""
        rate = f", with {_lower_rate(case)}" if lower_rate else ""
        return Remedy(
            f"Restart from scratch{action}{rate}: there is no checkpoint from before the onset.",
            f"loses {count(case.onset, 'step')}; write a rollback checkpoint every 100 steps next time",
            once=True,
        )
    step = case.checkpoint.step
    lost = int(case.run.row_steps[-1]) - step + 1
    action = f", and {next_action}" if next_action else ""
    return Remedy(
        f"Revert to the checkpoint at step {step} (the state after {count(step, 'step')}, before step {step} runs)"
        f"{action}.",
        f"trains {count(lost, 'step')} again",
        once=True,
    )


def rate_at_onset(case: Case) -> float | None:
    """The learning rate of the last row up to the onset that logged one; None where it is not positive."""
    rates = case.series("lr")
    used = np.empty(0) if rates is None else rates.value[(rates.step <= case.onset) & np.isfinite(rates.value)]
    return float(used[-1]) if used.size and used[-1] > 0 else None


def _lower_rate(case: Case) -> str:
    now, factor = rate_at_onset(case), case.shown.rate or HALF
    figures = "" if now is None else f" ({number(factor * now)} instead of {number(now)} at the onset)"
    return f"a lower peak learning rate{figures}"
