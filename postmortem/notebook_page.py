"""The Markdown page of a record in a notebook, registered by the room that renders it.

A record cannot import the room that renders it, because imports point down. So its `_repr_markdown_` calls `markdown`,
for which `api` registers the pages. A record without a registered page (`postmortem.api` was not imported) shows its
one-line repr.
"""

from __future__ import annotations

from functools import singledispatch


@singledispatch
def markdown(record: object) -> str | None:  # noqa: ARG001 - its type chooses the page
    """The Markdown page of `record`; None where no page is registered: a notebook then shows the repr."""
    return None
