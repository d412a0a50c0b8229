"""`postmortem explain SLUG`."""

from __future__ import annotations

import difflib
from typing import Annotated

import typer

from postmortem.cli._output import print_markdown, print_table
from postmortem.errors import UsageError
from postmortem.text import plain

UNKNOWN = """# None of the causes known here (`unknown`)

What remains when no cause explains the panels better than chance. It is weighed like every other cause, so its share
says how much the log leaves open.

**What to do.** Section 3 of the report lists the panels that were silent and what each would have shown: log those.
Section 4 names the replay that would decide between the causes that remain.
"""


def explain(
    slug: Annotated[str | None, typer.Argument(metavar="[SLUG]", help="A cause, as a report names it.")] = None,
) -> None:
    """Say what a cause is, and how to prove it.

    Without SLUG, list all causes.

    \b
    Examples:
      postmortem explain
      postmortem explain long_tail_tokens
    """
    from postmortem.causes import causes

    pages = {cause.slug: cause for cause in causes()}
    if slug is None:
        print_table([*((c.slug, c.title) for c in pages.values()), ("unknown", "None of the causes known here")])
    elif slug == "unknown":
        print_markdown(UNKNOWN)
    elif slug in pages:
        print_markdown(pages[slug].explain())
    else:
        near = difflib.get_close_matches(slug, [*pages, "unknown"], n=3, cutoff=0.6)
        hint = f"Did you mean {' or '.join(near)}?" if near else "All of them: postmortem explain"
        raise UsageError(f"There is no cause {plain(slug)!r}. {hint}")
