"""Renders a report through a Jinja template, in any format: each format brings its own escaper."""

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
from postmortem.text import count, plain

if TYPE_CHECKING:
    from jinja2.runtime import LoopContext
    from jinja2.sandbox import SandboxedEnvironment


@dataclass(frozen=True, eq=False)
class Template:
    """Renders a report through the template `name`. Call it with the view, which the template sees as `report`.

    escape: turns any printed value into text, and does not change text that it or a filter has escaped already. It
        gets text on one line, without control characters.
    filters: those of this format. Every template also has the filters `sentence`, `figure` and `count`, and in a loop
        over a list `separator(loop)`: the comma or "and" before an item.
    folder: the folder of the template and of what it includes, if that is not `templates/`.
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

        folder = _template_folder() if self.folder is None else self.folder

        def source(name: str) -> str | None:
            file = folder.joinpath(name)
            return file.read_text(encoding="utf-8") if file.is_file() else None

        environment = ImmutableSandboxedEnvironment(
            loader=FunctionLoader(source),
            undefined=StrictUndefined,
            finalize=self._escaped,
            autoescape=hasattr(self.escape(""), "__html__"),  # so that a macro's output is not escaped twice
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        common = {"sentence": wording.as_sentence, "figure": wording.figure_text, "count": count}
        environment.filters.update({**common, **self.filters})
        cast("dict[str, object]", environment.globals)["separator"] = _separator
        return environment

    def _escaped(self, value: object) -> str:
        return self.escape(plain(value, wording.LIMIT) if type(value) is str else value)


def _separator(loop: LoopContext) -> str:
    return wording.separator(loop.first, loop.last)


@cache
def _template_folder() -> Traversable:
    """A wheel has the templates inside the package; an editable install has them beside it."""
    inside = files("postmortem").joinpath("templates")
    beside = Path(__file__).parents[2] / "templates"
    for folder in (inside, beside):
        if folder.joinpath("report.md.j2").is_file():
            return folder
    raise InternalError(f"The report templates are neither in {inside} nor in {beside}: reinstall training-postmortem.")
