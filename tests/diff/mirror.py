"""A diff's JSON with its runs swapped, in a form in which it can be compared: sentences as sorted words."""

from __future__ import annotations

import re
from typing import Any

_KEYS = {
    "a": "b", "b": "a", "a_alone": "b_alone", "b_alone": "a_alone", "only_a": "only_b", "only_b": "only_a",
    "columns_only_a": "columns_only_b", "columns_only_b": "columns_only_a", "a_first": "b_first", "b_first": "a_first",
    "a_last": "b_last", "b_last": "a_last",
}  # fmt: skip
_WORDS = {"a": "b", "b": "a", "above": "below", "below": "above"}


def _relation(raw: dict[str, Any], *, swap: bool) -> dict[str, Any]:
    """A relation, or that of the runs the other way round, to nine digits."""
    figures = [raw["value"], *sorted((raw["low"], raw["high"])), raw["before"]]
    if swap:
        turned = [None if x is None else 1 / x if raw["form"] == "factor" else 0.0 - x for x in figures]
        figures = [turned[0], turned[2], turned[1], turned[3]]
    rounded = [None if x is None else float(f"{x:.9g}") for x in figures]
    return {**raw, **dict(zip(("value", "low", "high", "before"), rounded, strict=True))}


def comparable(raw: Any, *, swap: bool, key: str = "", within: str = "") -> Any:
    """`raw` with sentences as sorted words and settings in order; with `swap`, as of the runs the other way round."""
    if isinstance(raw, dict):
        return {_KEYS.get(k, k) if swap else k: comparable(v, swap=swap, key=k, within=key) for k, v in raw.items()}
    if key in ("reason", "text", "top_lines", "cannot_tell") and isinstance(raw, str):
        turned = re.sub(r"\b(a|b|above|below)\b", lambda m: _WORDS[m[0]], raw) if swap else raw
        return sorted(re.findall(r"[\w.]+", turned))
    if swap and key in ("largest_at", "first_other") and raw:
        return raw[::-1]
    if swap and key in ("largest", "final", "before") and isinstance(raw, float):
        return 0.0 - raw
    if swap and (key, within) == ("value", "level"):
        return [0.0 - value if isinstance(value, float) else value for value in raw]
    if isinstance(raw, list):
        items: list[Any] = [
            _relation(item, swap=swap) if key == "relations" else comparable(item, swap=swap, key=key, within=within)
            for item in raw
        ]
        if key == "settings":
            return sorted(items, key=lambda setting: (setting["group"], setting["key"]))
        return sorted(items) if key in ("top_lines", "cannot_tell") else items
    return raw
