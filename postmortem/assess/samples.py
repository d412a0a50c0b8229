"""Shows the worst samples of the suspect batch as text, with the worst tokens marked."""

from __future__ import annotations

from typing import Any

import numpy as np

from postmortem.case import Case
from postmortem.diagnosis import Sample, Token
from postmortem.text import plain

SAMPLES = 3
TOKENS = 64  # of a sample: enough to recognize it
CHARACTERS = 300  # of a sample that was logged as text, without token ids


def samples(case: Case) -> tuple[Sample, ...]:
    """Up to three samples of the batch consumed at the onset, most marked tokens first; () where not recorded."""
    vocabulary, rows = case.run.vocab(), _value_at_onset(case, "token_ids")
    if vocabulary is None:
        rows = _value_at_onset(case, "sample_text")
    if rows is None:
        return ()
    marks = _marks(case)
    names, source = _value_at_onset(case, "sample_ids"), _value_at_onset(case, "source")
    order = sorted(range(len(rows)), key=lambda r: (-sum(1 for key in marks if key[0] == r), r))
    worst: list[Sample] = []
    for row in order[:SAMPLES]:
        if marks and not any(key[0] == row for key in marks):
            continue
        ids = rows[row]
        if vocabulary is None:  # text from a decode hook: it does not show where a token begins
            tokens = [Token(plain(ids, CHARACTERS))]
        elif isinstance(ids, (list, tuple, np.ndarray)):
            tokens = [
                Token(_piece(vocabulary, i), (row, col) in marks, marks.get((row, col)))
                for col, i in enumerate(ids[:TOKENS])
            ]
        else:
            return ()
        name = plain(names[row], 60) if names is not None and row < len(names) else str(row)
        worst.append(Sample(name, plain(source, 60) if isinstance(source, str) else "", tuple(tokens)))
    return tuple(worst)


def _marks(case: Case) -> dict[tuple[int, int], float]:
    """(sample, position) → loss in nats of the batch's worst tokens."""
    rows, cols, losses = (case.numbers_at(f"worst_token_{part}", case.onset) for part in ("rows", "cols", "losses"))
    if rows is None or cols is None or losses is None:
        return {}
    return {(int(row), int(col)): loss for row, col, loss in zip(rows, cols, losses, strict=False)}


def _value_at_onset(case: Case, column: str) -> Any:
    labels = case.labels(column)
    value = labels.at(case.onset) if labels is not None else None
    return value if isinstance(value, (list, tuple, np.ndarray, str)) else None


def _piece(vocabulary: Any, token: Any) -> str:
    known = isinstance(token, (int, np.integer)) and 0 <= int(token) < len(vocabulary)
    return plain(vocabulary[int(token)], 40) if known else f"<{plain(token, 12)}>"
