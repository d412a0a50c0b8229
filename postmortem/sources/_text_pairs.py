"""One line of a text log as pairs of a key and a number, and a pattern for further lines of the same shape.

    step   12/900 | loss 2.31 (+0.2z)| lr 3.0e-04        →  step 12, loss 2.31, lr 3.0e-04
    {'loss': 2.31, 'grad_norm': 1.2, 'epoch': 0.1}       →  loss 2.31, grad_norm 1.2, epoch 0.1
    Epoch 0:  10%|█▏ | 10/100 [00:01<00:09, loss=2.31]   →  Epoch 0, batch 10, loss 2.31

A key is a word or a few, before `:`, `=` or spaces; a number may have a unit or a whole (`12/900`) behind it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from postmortem.run.naming import STEP_NAMES, assign_columns, normal

LONGEST_LINE = 16 * 2**10
"""Bytes of a line in which pairs are looked for: a metric line is shorter."""

_MOST_PAIRS = 512
# Possessive quantifiers throughout: a line from a stranger must not make a pattern try again and again.
_NUMBER = rb"[-+]?(?:\d++(?:,\d{3})*+(?:\.\d*+)?|\.\d++)(?:[eE][-+]?\d++)?"
_WORD = rb"[-+]?(?i:nan|inf(?:inity)?)"
_VALUE = rb"(?:" + _NUMBER + rb"(?!\d|[.:-]\d)|" + _WORD + rb"(?=ms|s\b|[^A-Za-z]|$))"
_KEY_WORD = rb"[\w./()%@#-]{0,79}+"
_KEY = rb"[A-Za-z_]" + _KEY_WORD + rb"(?:[ ](?!" + _WORD + rb"\b(?![ ]\w++[:=]))[A-Za-z(]" + _KEY_WORD + rb"){0,5}"
_SEPARATOR = rb"(?:[ \t]*+[:=][ \t]*+|[ \t]++)['\"]?[\[(]{0,2}[ ]*+"
_PAIR = re.compile(rb"(?<![\w./-])(['\"]?)(" + _KEY + rb")\1" + _SEPARATOR + rb"(" + _VALUE + rb")")
# Counts without a key: `10/100 [` of a progress bar, `Epoch: [3][ 120/5004]`, and `1|120|Loss` of epoch and step.
_EPOCH_STEP = re.compile(rb"^\d+\|(\d+)\|(?=Loss)")
_COUNT = re.compile(rb"(?:(?:^|\|)[ \t]*|[\] \t]\[[ ]*)(\d+)/\d+[ ]?[\[\]\x80-\xff]")
_RANK = re.compile(rb"\[?\brank[ :=]?(\d+)\b", re.IGNORECASE)
_EVALUATION = re.compile(
    r"(?:^|[^A-Za-z])(?:val|valid|validation|validate|eval|evaluation|evaluate|test|dev)(?:$|[^A-Za-z])", re.IGNORECASE
)
# What differs between two lines of one shape: numbers, spaces, and the drawing of a progress bar.
_VARIES = re.compile(
    rb"(?P<bar>[ \t]*+(?:[\x80-\xff]|[=>.#*-]{3})[\x80-\xff=>.#* \t-]*+)"
    rb"|(?P<number>[-+]?(?:\d[\d.,]*+(?:[eE][-+]?\d++)?|(?<![A-Za-z])(?:nan|inf)(?![A-Za-y])))|(?P<space>[ \t]++)"
)
_SAME = {
    "bar": rb"[\x80-\xff=>.#* \t-]*+",
    "number": rb"[-+]?(?:[\d.,]++(?:[eE][-+]?\d++)?|nan|inf)",
    "space": rb"[ \t]++",
}


@dataclass(frozen=True)
class Line:
    """The pairs of one line: `keys`, and the (start, end) of the number of each in the line."""

    keys: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]


@lru_cache(maxsize=4_096)
def meaning(key: str) -> str | None:
    """What a key means: a canonical column, "epoch", or None."""
    names = assign_columns((key,), {}, {}, "")
    if names.epoch is not None:
        return "epoch"
    return next(iter(names.logged_as), None if not names.losses else "loss")


def read_line(line: bytes) -> Line:
    """The pairs of a line, in order; of a key that stands twice, the first. `line` has no ANSI sequences.

    In a line about an evaluation, keys that do not say so get the prefix `eval/`.
    """
    pairs = [(_key(match), match.span(3)) for match in _PAIR.finditer(line)][:_MOST_PAIRS]
    if not pairs:
        return Line((), ())
    first, begin = pairs[0][0], _PAIR.search(line)
    assert begin is not None
    pairs[0] = _without_prefix(first), pairs[0][1]
    before = line[: begin.start()].decode(errors="replace")
    if _EVALUATION.search(f"{before} {first}" if normal(pairs[0][0]) in STEP_NAMES else before):
        pairs = [
            (key if normal(key) in STEP_NAMES or _EVALUATION.search(key) else f"eval/{key}", s) for key, s in pairs
        ]
    covered = [span for _, span in pairs]
    for pattern, key in ((_COUNT, "batch"), (_EPOCH_STEP, "step"), (_RANK, "rank")):
        match = pattern.search(line)
        if match is not None and match.span(1) not in covered and b"{'" not in line:  # a bar beside a dict lags
            pairs.append((key, match.span(1)))
    once: dict[str, tuple[int, int]] = {}
    for key, span in sorted(pairs, key=lambda pair: pair[1]):
        once.setdefault(key, span)
    return Line(tuple(once), tuple(once.values()))


def _key(match: re.Match[bytes]) -> str:
    """The key of a pair, with `_ms` where its number is one of milliseconds."""
    key = match[2].decode(errors="replace")
    return f"{key}_ms" if match.string.startswith(b"ms", match.end()) else key


def _without_prefix(key: str) -> str:
    """The first key of a line without the words before it, such as `INFO trainer step`."""
    words = key.split(" ")
    if normal(words[-1]) in STEP_NAMES and _EVALUATION.search(key):
        return words[-1]  # validation loss at iteration 100
    for n in range(len(words)):
        rest = " ".join(words[n:])
        if normal(rest) in STEP_NAMES or meaning(rest) is not None:
            return rest
    return key


def shape_of(line: bytes, read: Line) -> bytes:
    """The pattern of lines that differ from this one only in numbers, spaces and the drawing of a progress bar; a
    group for each number that has a key. It begins at the start of a line and ends with its line break."""
    pattern, at = bytearray(), 0
    for start, end in read.spans:
        pattern += _literal(line[at:start]) + rb"(" + _NUMBER + rb"|" + _WORD + rb")"
        at = end
    return bytes(pattern + _literal(line[at:].rstrip()) + rb"[ \t]*\n")


def _literal(text: bytes) -> bytes:
    pattern, at = bytearray(), 0
    for match in _VARIES.finditer(text):
        pattern += re.escape(text[at : match.start()])
        pattern += _SAME[match.lastgroup or "space"]
        at = match.end()
    return bytes(pattern + re.escape(text[at:]))
