"""Rendering through a template of `templates/`, whatever the format: how a value looks there, its escaper says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from postmortem.errors import InternalError
from postmortem.report import wording
from postmortem.report.view import ReportView
from postmortem.text import plain

if TYPE_CHECKING:
    from jinja2.runtime import LoopContext
    from jinja2.sandbox import SandboxedEnvironment


@dataclass(frozen=True, eq=False)
class Template:
    """Renders a report through the template `name`. Called with the view, which the template knows as `report`.

    escape: makes text of any value that is printed, and leaves alone what it or a filter has made of it already. It
        sees text on one line only, without control characters.
    filters: the format's own. Every template has the filters `sentence` and `figure`, and in a loop over a list
        `joint(loop)`, the comma or "and" before an item.
    folder: where the template and what it includes lie, if not in `templates/`.
    """

    name: str
    escape: Callable[[object], str]
    filters: Mapping[str, Callable[..., object]] = field(default_factory=dict[str, Callable[..., object]])
    folder: Path | None = None

    def __call__(self, report: ReportView) -> str:
        """The whole text."""
        return self._environment.get_template(self.name).render(report=report)

    @cached_property
    def _environment(self) -> SandboxedEnvironment:
        from jinja2 import FunctionLoader, StrictUndefined
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        places = _templates() if self.folder is None else self.folder

        def source(name: str) -> str | None:
            file = places.joinpath(name)
            return file.read_text(encoding="utf-8") if file.is_file() else None

        environment = ImmutableSandboxedEnvironment(
            loader=FunctionLoader(source),
            undefined=StrictUndefined,
            finalize=self._escaped,
            autoescape=hasattr(self.escape(""), "__html__"),  # so that what a macro gives is not escaped once more
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        environment.filters.update({"sentence": wording.sentence, "figure": wording.figure, **self.filters})
        cast("dict[str, object]", environment.globals)["joint"] = _joint
        return environment

    def _escaped(self, value: object) -> str:
        return self.escape(plain(value, wording.LIMIT) if type(value) is str else value)


def _joint(loop: LoopContext) -> str:
    return wording.joint(loop.first, loop.last)


@cache
def _templates() -> Traversable:
    """The wheel carries the templates inside the package; an editable install has them beside it."""
    inside = files("postmortem").joinpath("templates")
    beside = Path(__file__).parents[2] / "templates"
    for place in (inside, beside):
        if place.joinpath("report.md.j2").is_file():
            return place
    raise InternalError(f"report templates found neither in {inside} nor in {beside}: reinstall training-postmortem.")
