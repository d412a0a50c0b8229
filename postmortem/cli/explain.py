"""`postmortem explain SLUG`."""

from __future__ import annotations

import difflib
from typing import Annotated

import typer

from postmortem.cli._terminal import show_markdown
from postmortem.errors import UsageError
from postmortem.text import plain

UNKNOWN = """# None of the causes known here (`unknown`)

What stays when no cause explains the panels better than chance. It is weighed like every other cause, so its share says
how much the log leaves open.

**What to do.** Section 3 of the report lists the panels that were silent and what each would have told: log those.
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

    known = {cause.slug: cause for cause in causes()}
    if slug is None:
        widest = max(map(len, (*known, "unknown")))
        for name, title in (*((c.slug, c.title) for c in known.values()), ("unknown", "None of the causes known here")):
            typer.echo(f"{name:<{widest}}  {title}")
    elif slug == "unknown":
        show_markdown(UNKNOWN)
    elif slug in known:
        show_markdown(known[slug].explain())
    else:
        near = difflib.get_close_matches(slug, [*known, "unknown"], n=3, cutoff=0.6)
        hint = f"Did you mean {' or '.join(near)}?" if near else "All of them: postmortem explain"
        raise UsageError(f"There is no cause {plain(slug)!r}. {hint}")
