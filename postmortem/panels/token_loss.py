"""Panel 7, the loss of single tokens: whether a tail of few tokens moved or the whole batch."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from postmortem.case import Case, Observation
from postmortem.departure import Departure
from postmortem.panels import Panel
from postmortem.panels._drawing import COLORS, set_scale
from postmortem.panels._measuring import (
    QUANTILES,
    departure_figures,
    departure_text,
    finite_departure,
    token_share_of_rise,
    unclear,
    unclear_text,
)
from postmortem.panels._witnesses import EXPLAINED, tokens_follow
from postmortem.text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from postmortem.diagnosis import PanelReading

AGREES = 0.5  # share of the rise of the loss that the quantiles explain
HALF = 0.5  # share of the rise of the mean from which the median rises with it
UNPROVEN = 0.3  # strength of a disagreement of quantiles that did not follow the loss before


def _measure(case: Case) -> list[Observation]:
    departures = [d for name in QUANTILES if (d := finite_departure(case, name)) is not None]
    worst = max(departures, key=lambda d: abs(d.z), default=None)
    if worst is None:
        return []
    tail = max(departures, key=lambda d: d.value - d.baseline)
    at_onset = any(d.moved for d in _row(case, case.onset).values())
    share = token_share_of_rise(case) if case.loss_moved() else None
    if share is not None and share[0] < EXPLAINED and not at_onset:
        percent = number(round(100 * max(share[0], 0.0)))
        text = f"explains {percent} % of the rise of the loss: {departure_text(tail)}"
        figures = {**departure_figures(tail), "share_of_rise": share[0]}
        strength = 1.0 if tokens_follow(case) else UNPROVEN
        return [Observation("token_loss.disagrees", text, tail.column, share[1], figures, strength, moved=False)]
    agrees = share is not None and share[0] >= AGREES
    if not agrees and not any(d.moved for d in departures):
        if (large := unclear(tail, *departures)) is not None:
            text, figures = unclear_text(large), departure_figures(large)
            return [Observation("token_loss.unclear", text, large.column, large.step, figures)]
        text = f"did not move: {departure_text(tail)}"
        return [Observation("token_loss.flat", text, tail.column, tail.step, departure_figures(tail), moved=False)]
    # The batch of the onset made the gradient; the rows after it are computed with damaged parameters.
    step = case.onset if at_onset else share[1] if share is not None and agrees else worst.step
    quantiles = _row(case, step)
    tails = [quantiles[name] for name in list(QUANTILES)[1:] if name in quantiles]
    if not tails:
        return []
    tail = max(tails, key=lambda d: d.value - d.baseline)
    loss = case.departure("loss", (step, step + 1))
    rise = loss.value - loss.baseline if loss is not None and loss.value > loss.baseline else None
    return [_shape(quantiles.get("token_loss_p50"), tail, tails[-1], step, rise), *_few_tokens(case, step)]


def _row(case: Case, step: int) -> dict[str, Departure]:
    """The quantiles of one row, whose shape distinguishes a tail from a shift."""
    return {name: d for name in QUANTILES if (d := finite_departure(case, name, (step, step + 1))) is not None}


def _shape(middle: Departure | None, tail: Departure, highest: Departure, step: int, rise: float | None) -> Observation:
    """Whether few tokens have a loss that is higher than before, or all of them; `rise` is that of the mean, in nats.

    Where the median token rises by half as much as the mean, most tokens do, however far the highest ones went.
    """
    tail_shift = tail.value - tail.baseline
    middle_shift = 0.0 if middle is None else middle.value - middle.baseline
    shifts = {"median_shift": middle_shift, "tail_shift": tail_shift, "highest": highest.value}
    figures = {**departure_figures(tail), **shifts}
    least = tail_shift if rise is None else min(rise, tail_shift)
    moved = middle is not None and middle.z > 4
    if middle is not None and moved and middle_shift > HALF * least:
        text = (
            f"the whole histogram shifts: {middle.column} by {number(middle_shift)} nats, {tail.column} by "
            f"{number(tail_shift)}"
        )
        return Observation("token_loss.whole", text, middle.column, step, figures)
    if tail_shift > 0:
        median = f", while the median token moves by {number(middle_shift)} nats" if middle is not None else ""
        text = f"a heavy right tail: {departure_text(tail)}{median}"
        strength = 1.0 - middle_shift / least if moved else 1.0
        return Observation("token_loss.tail", text, tail.column, step, figures, strength)
    text = f"lower than before: {departure_text(tail)}"
    return Observation("token_loss.lower", text, tail.column, step, figures)


def _few_tokens(case: Case, step: int) -> list[Observation]:
    """Whether the worst tokens of the batch have only few distinct ids, as in a long-tail batch."""
    ids = case.numbers_at("worst_token_ids", step)
    if ids is None or len(ids) < 4:
        return []
    top_two = Counter(int(i) for i in ids).most_common(2)
    share = sum(n for _, n in top_two) / len(ids)
    names = [case.piece(i) for i, _ in top_two]
    text = f"{number(100 * share)} % of worst_token_ids are {' and '.join(names)}"
    slug = "token_loss.few_ids" if share >= 0.6 else "token_loss.many_ids"
    return [Observation(slug, text, "worst_token_ids", step, {"share": share}, moved=share >= 0.6)]


def _draw(ax: Axes, reading: PanelReading) -> None:
    """Draw the median as a line, the band up to the 99th percentile shaded, and the maximum as dots."""
    by_name = {trace.name: trace for trace in reading.traces}
    for (upper, shade), lower in zip(
        (("token_loss_p99", 0.15), ("token_loss_p90", 0.3)), ("token_loss_p50",) * 2, strict=True
    ):
        if upper in by_name and lower in by_name and by_name[upper].step == by_name[lower].step:
            ax.fill_between(
                by_name[upper].step,
                by_name[lower].value,
                by_name[upper].value,
                color=COLORS[0],
                alpha=shade,
                lw=0,
                label=f"p50 to {upper[11:]}",
            )
    if "token_loss_p50" in by_name:
        ax.plot(by_name["token_loss_p50"].step, by_name["token_loss_p50"].value, color=COLORS[0], lw=1.2, label="p50")
    if "token_loss_max" in by_name:
        ax.plot(
            by_name["token_loss_max"].step, by_name["token_loss_max"].value, ".", color=COLORS[1], ms=3, label="max"
        )
    set_scale(ax, reading)


PANEL = Panel(
    7,
    "token_loss",
    "Per-token loss",
    tuple(QUANTILES),
    _measure,
    (
        "whether few tokens caused the rise (long tail) or the whole batch did (garbage): log token_loss_p50, "
        "token_loss_p90, token_loss_p99 and token_loss_max"
    ),
    unit="nats",
    draw=_draw,
    observes=(
        "token_loss.disagrees",
        "token_loss.flat",
        "token_loss.unclear",
        "token_loss.whole",
        "token_loss.tail",
        "token_loss.lower",
        "token_loss.few_ids",
        "token_loss.many_ids",
        "token_loss.nonfinite",
    ),
    nonfinite="token_loss.nonfinite",
)
