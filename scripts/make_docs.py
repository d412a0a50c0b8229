"""Write the generated pages of the documentation, or report which of them are stale (`--check`).

    docs/causes/*.md      from each cause's docstring
    docs/observations.md  from what panels declare, and the weights that causes give
    docs/requirements.md  from docs/requirements.toml
    docs/sample-report/   `postmortem draft sample_runs/19-spike-001`
    README.md             the excerpt of that report, between its markers

Pictures are compared by name only: their bytes depend on the version of matplotlib.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from _readme import README, ROOT, SAMPLE, between_markers, copy_sample, environment
from _requirements import DATA, PAGE, read_requirements, requirements_page

from postmortem.causes import causes
from postmortem.panels import panels

CAUSES = Path("docs/causes")
OBSERVATIONS = Path("docs/observations.md")
REPORT = Path("docs/sample-report")
TOLERANCE = 1e-6  # relative: the last digits of a mean depend on the CPU's vector width


def cause_pages() -> dict[Path, str]:
    """Path → text of every cause's page and of their list."""
    pages = {
        CAUSES / f"{cause.slug}.md": _generated(cause.explain(), f"postmortem/causes/{cause.slug}.py")
        for cause in causes()
    }
    listed = "\n".join(f"- [{cause.title}]({cause.slug}.md) (`{cause.slug}`)" for cause in causes())
    head = "# Causes\n\nWhat a run is examined for, one page each; `postmortem explain SLUG` prints the same.\n\n"
    return pages | {CAUSES / "README.md": _generated(f"{head}{listed}\n", "the causes' docstrings")}


def observations_page() -> str:
    """Every observation that a panel may make, by panel, with the weights that causes give it."""
    head = (
        "# Observations\n\nWhat the panels may observe of an incident: the slugs to which a cause gives weights, in "
        "log-odds.\nAn observation without a weight is shown in the report and counts for no cause."
    )
    parts = [head]
    for panel in panels():
        rows = [f"| `{slug}` | {_weights_of(slug)} |" for slug in panel.observes]
        parts.append(
            f"## {panel.title} (`{panel.slug}`)\n\nIt shows {panel.would_tell}.\n\n"
            + "\n".join(("| observation | weights |", "| --- | --- |", *rows))
        )
    return _generated("\n\n".join(parts) + "\n", "what the panels and causes declare")


def _weights_of(slug: str) -> str:
    weights = [(cause.weights[slug], cause.slug) for cause in causes() if slug in cause.weights]
    return ", ".join(f"`{cause}` {weight:+g}" for weight, cause in sorted(weights, key=lambda w: (-w[0], w[1]))) or "–"


def draft_sample(out: Path) -> None:
    """Draft the sample run into `out`, under the path by which a reader of the repository would name it."""
    copy_sample(out.parent)
    targets = ("--out", str(out), "--lessons", str(out.parent / "lessons.md"))
    command = (sys.executable, "-m", "postmortem", "draft", str(SAMPLE), *targets)
    subprocess.run(command, cwd=out.parent, env=environment(), check=True, stdout=sys.stderr)


def excerpt(report: str) -> str:
    """The part of a report that fits on one screen: title, verdict, sentence, picture, and the lists of §1 and §2."""
    parts = re.split(r"^## \d\. ", report, flags=re.MULTILINE)
    if len(parts) < 3:
        raise SystemExit(f"{SAMPLE}: its draft has no sections, as if the run had no incident")
    head, symptoms, hypotheses = parts[:3]
    title, *paragraphs = head.split("\n\n")
    shown = [f"**{title.removeprefix('# ')}**"]
    for paragraph in paragraphs:
        shown.append(paragraph.replace("](panels/", f"]({REPORT}/panels/"))
        if paragraph.startswith("!["):
            break
    for section in (symptoms, hypotheses):
        name, *rest = section.splitlines()
        items = [re.sub(r" \[[a-z]\]$", "", line) for line in rest if re.match(r"(- |\d+\. )", line)]
        shown += [f"**{name}**", "\n".join(items)]
    return "\n\n".join(shown)


def with_excerpt(readme: str, text: str) -> str:
    """README with `text` between its markers, as a quotation."""
    before, _, after = between_markers(readme, "excerpt")
    quoted = "\n".join(f"> {line}".rstrip() for line in text.splitlines())
    return f"{before}{quoted}{after}"


def same_json(a: object, b: object) -> bool:
    """Equal up to TOLERANCE in every number."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_json(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same_json(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-12)
    return a == b


def stale_report(fresh: Path) -> list[str]:
    """The files of the committed sample report that differ from `fresh`, with how they differ."""
    committed = ROOT / REPORT
    names = {path.relative_to(folder) for folder in (fresh, committed) for path in folder.rglob("*") if path.is_file()}
    stale: list[str] = []
    for name in sorted(names):
        a, b = committed / name, fresh / name
        if not (a.exists() and b.exists()):
            stale.append(f"{REPORT / name}: {'missing' if b.exists() else 'no longer made'}")
        elif name.suffix == ".json":
            if not same_json(json.loads(a.read_text()), json.loads(b.read_text())):
                stale.append(f"{REPORT / name}: differs")
        elif name.suffix != ".png" and a.read_text() != b.read_text():
            stale.append(f"{REPORT / name}: differs")
    return stale


def stale_pages(pages: dict[Path, str]) -> list[str]:
    """Those of `pages` that differ from their files, and cause pages that belong to no cause."""
    stale = [f"{path}: differs" for path, text in pages.items() if not _has_text(ROOT / path, text)]
    orphans = {path.relative_to(ROOT) for path in (ROOT / CAUSES).glob("*.md")} - pages.keys()
    return stale + [f"{path}: belongs to no cause" for path in sorted(orphans)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is stale")
    check: bool = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "report"
        draft_sample(fresh)
        pages = cause_pages() | {OBSERVATIONS: observations_page()}
        pages[PAGE] = _generated(requirements_page(read_requirements()), str(DATA))
        text = excerpt((fresh / "report.md").read_text())
        pages[README.relative_to(ROOT)] = with_excerpt(README.read_text(), text)
        stale = stale_pages(pages) + stale_report(fresh)
        if check and stale:
            sys.exit("\n".join((*stale, "Write them with: make docs")))
        if not check:
            for orphan in set((ROOT / CAUSES).glob("*.md")) - {ROOT / path for path in pages}:
                orphan.unlink()
            (ROOT / CAUSES).mkdir(parents=True, exist_ok=True)
            for path, text in pages.items():
                (ROOT / path).write_text(text)
            shutil.rmtree(ROOT / REPORT, ignore_errors=True)
            shutil.copytree(fresh, ROOT / REPORT)
    print("fresh" if check else "\n".join(stale) or "nothing was stale")


def _generated(text: str, source: str) -> str:
    return f"<!-- Written by `make docs` from {source}: change it there. -->\n\n{text}"


def _has_text(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    main()
