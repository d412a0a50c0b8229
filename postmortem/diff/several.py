"""Three and more runs, each held against the first: a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from postmortem.diff.build import diff_runs
from postmortem.diff.level import signed
from postmortem.diff.model import SCHEMA_VERSION, RunsDiff, Verdict, strict_json
from postmortem.diff.terminal import STYLES, fitted, labelled
from postmortem.diff.words import run_line
from postmortem.report.markdown import Safe, code, escape, table
from postmortem.report.summary import Line, Span
from postmortem.run import Run
from postmortem.text import number, plain
from postmortem.version import __version__

_HEADS = ("b", "verdict", "part at", "incidents", "area", "end", "lost")
_NAME = 40  # characters of a run's name in the table, where there is room


@dataclass(frozen=True)
class Comparison:
    """Diffs of one run with each of the others, in their order."""

    schema_version: int
    tool: str
    diffs: tuple[RunsDiff, ...]

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One for each run but the first."""
        return tuple(d.verdict for d in self.diffs)

    def to_json(self) -> str:
        """Strict JSON of all diffs, with `verdicts` by themselves."""
        head = {"schema_version": self.schema_version, "tool": self.tool, "verdicts": self.verdicts}
        return strict_json({**head, "diffs": self.diffs})

    def summary(self, width: int | None = None, unicode: bool = True, everything: bool = False) -> tuple[Line, ...]:
        """The table's lines, no wider than `width`, and the first facts; `everything` adds each diff in full."""
        first = self.diffs[0].a
        lines: list[Line] = [(Span("a  "), Span(plain(first.id, 60), "bold"), Span(f"  {run_line(first)}", "dim")), ()]
        rows = [_HEADS, *(_row(d) for d in self.diffs)]
        wide = [max(len(row[i]) for row in rows) for i in range(len(_HEADS))]
        if width is not None:  # of a long name less is shown, and all of the figures
            wide[0] = max(8, min(wide[0], width - sum(w + 2 for w in wide[1:])))
        for row, d in zip(rows, (None, *self.diffs), strict=True):
            styles = ["dim"] * len(row) if d is None else ["bold", STYLES[d.verdict], *[""] * (len(row) - 2)]
            cells = [f"{plain(cell, w):<{w}}" for cell, w in zip(row, wide, strict=True)]
            spans = [(Span(cell, style), Span("  ")) for cell, style in zip(cells, styles, strict=True)]
            lines.append(tuple(span for two in spans for span in two)[:-1])
        lines.append(())
        beside = min(wide[0], 24) + 2
        for d in self.diffs:
            lines += labelled(plain(d.b.id, beside - 2), (d.reason, *_facts(d)), width, label=beside)
        if everything:
            for d in self.diffs:
                lines += [(), *d.summary(width, unicode, everything)]
        return tuple(fitted(line, width, unicode) for line in lines)

    def markdown(self, everything: bool = False, picture: str = "") -> str:
        """The table as a Markdown page; `everything` adds each diff in full."""
        rows = [[code(d.b.id), Safe(f"**{d.verdict}**"), *_row(d)[2:]] for d in self.diffs]
        facts = [f"- {code(d.b.id)}: {escape(fact)}" for d in self.diffs for fact in (d.reason, *_facts(d))]
        first = self.diffs[0].a
        parts = [
            f"# Runs against {code(first.id)}",
            escape(run_line(first)),
            table(_HEADS, rows),
            f"![Loss of all runs]({picture})" if picture else "",
            "\n".join(facts),
            *(d.markdown(True) for d in self.diffs if everything),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def write(self, out: Path, everything: bool = False) -> Path:
        """As `RunsDiff.write`."""
        from postmortem.diff.figure import draw
        from postmortem.diff.write import write

        page = self.markdown(everything, picture="diff.png")
        return write(out, {"diff.png": draw(self.diffs), "diff.json": self.to_json(), "diff.md": page})


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Hold every run against the first."""
    diffs = tuple(diff_runs(runs[0], run) for run in runs[1:])
    return Comparison(SCHEMA_VERSION, f"postmortem {__version__}", diffs)


def _facts(d: RunsDiff) -> tuple[str, ...]:
    """The first facts, with the names of the runs instead of a and b where a line begins with one."""
    return tuple(line.removeprefix("b ") for line in d.top_lines if not line.startswith("a "))


def _row(d: RunsDiff) -> tuple[str, ...]:
    """First divergence, incidents of its own, area in nats·steps, gap at the end in nats, steps done in vain."""
    gap = d.gap()
    alone = sum(not one.shared for one in d.b.incidents)
    return (
        plain(d.b.id, _NAME),
        d.verdict,
        "–" if d.divergence is None else f"{d.divergence.step} {d.divergence.kind.replace('_', ' ')}",
        str(alone),
        "–" if gap is None else number(gap.area),
        "–" if gap is None else signed(gap.final),
        f"{d.b.lost.steps:,}",
    )
