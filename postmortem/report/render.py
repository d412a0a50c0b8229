"""A Diagnosis through a template of `templates/`: one file there per report format."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from postmortem.diagnosis import Diagnosis
from postmortem.errors import PostmortemError, UsageError
from postmortem.report import markdown, view, words
from postmortem.report.select import chosen

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

READING_NOTES = 12  # notes of the reader printed in full; the rest stay in diagnosis.json


def formats() -> tuple[str, ...]:
    """The report formats there are: `md` for `templates/report.md.j2`."""
    names = (entry.name.split(".") for entry in _templates().iterdir())
    return tuple(sorted(n[1] for n in names if n[0] == "report" and n[-1] == "j2" and len(n) == 3))


def render(diagnosis: Diagnosis, *, incident: int | None = None, format: str = "md") -> str:
    """The report on incident `incident` (its id; default: the worst), up to where the person's own notes begin.

    Raises UsageError for an incident or a format there is not.
    """
    if format not in formats():
        raise UsageError(f"There is no report format {format!r}: choose from {', '.join(formats())}.")
    shown = chosen(diagnosis, incident)
    template = _environment().get_template(f"report.{format}.j2")
    return template.render(
        diagnosis=diagnosis,
        run=diagnosis.run,
        incident=shown,
        title=words.title(shown),
        view=view.IncidentView(shown) if shown else None,
        rows=view.incident_rows(diagnosis, shown) if shown else [],
        notes=diagnosis.notes[:READING_NOTES],
        more_notes=len(diagnosis.notes) - READING_NOTES,
        verdict=words.verdict(diagnosis.verdict if shown is None else shown.verdict),
        verdict_means=words.verdict_means(diagnosis, shown),
    )


@cache
def _templates() -> Traversable:
    """The wheel carries the templates inside the package; an editable install has them beside it."""
    inside = files("postmortem").joinpath("templates")
    beside = Path(__file__).parents[2] / "templates"
    for place in (inside, beside):
        if place.joinpath("report.md.j2").is_file():
            return place
    raise PostmortemError(f"report templates found neither in {inside} nor in {beside}: reinstall training-postmortem.")


@cache
def _environment() -> SandboxedEnvironment:
    from jinja2 import FunctionLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def source(name: str) -> str:
        return _templates().joinpath(name).read_text(encoding="utf-8")

    environment = ImmutableSandboxedEnvironment(
        loader=FunctionLoader(source),
        undefined=StrictUndefined,
        finalize=markdown.escape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        code=markdown.code,
        block=markdown.block,
        sentence=markdown.sentence,
        figure=words.figure,
        listing=markdown.listing,
    )
    cast("dict[str, object]", environment.globals).update(
        table=markdown.table, image=view.image, safe_image=view.safe_image
    )
    return environment
