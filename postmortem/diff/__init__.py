"""Two runs held against each other: what they share, where they part, and whether they meet again.

diff_runs(a, b)      one pair → RunsDiff
compare_runs(runs)   three and more, each against the first → Comparison

`postmortem.diff.render` makes terminal lines, Markdown, JSON, picture and files of either.
"""

from postmortem.diff.compare import compare_runs, diff_runs
from postmortem.diff.model import ManyRunsDiff, RunsDiff

__all__ = ["ManyRunsDiff", "RunsDiff", "compare_runs", "diff_runs"]
