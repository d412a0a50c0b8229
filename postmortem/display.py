"""How a notebook shows a record whose page is rendered by a room above it.

A record cannot import what renders it: imports point down. So its `_repr_markdown_` asks here, and `api` registers the
pages. A record that no page is registered for, because the door was never opened, shows its one-line repr.
"""

from __future__ import annotations

from functools import singledispatch


@singledispatch
def markdown(record: object) -> str | None:
    """The Markdown page of `record`; None, on which a notebook falls back to the repr, where no page is registered."""
    return None
