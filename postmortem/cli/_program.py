"""What commands that drive a program show beside it: its import, and the warnings of this package as notes."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from postmortem.cli._output import print_labeled
from postmortem.text import plain


def print_imports(imports: str) -> None:
    """Say on stderr which foreign program is imported from where; nothing for this package's own ("")."""
    if imports:
        print_labeled("imports", imports, err=True)


@contextmanager
def notes(*, shown: bool) -> Generator[None]:
    """This package's warnings as lines on stderr, or not at all unless `shown`; those of others stay as they are."""
    from postmortem.checkpoint import CheckpointWarning
    from postmortem.record.input_warnings import RecordingWarning

    with warnings.catch_warnings():
        show_foreign = warnings.showwarning
        warnings.simplefilter("always", CheckpointWarning)
        warnings.simplefilter("always", RecordingWarning)

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if not issubclass(category, (CheckpointWarning, RecordingWarning)):
                show_foreign(message, category, *rest, **more)
            elif shown:
                print_labeled("note", plain(message, 1000), err=True)

        warnings.showwarning = show
        yield
