"""Two runs held against each other: what they share, where they part, and whether they meet again.

diff_runs(a, b)      one pair → RunsDiff, from which terminal, Markdown, JSON and picture are made
compare_runs(runs)   three and more, each against the first → Comparison
"""

from postmortem.diff.build import diff_runs
from postmortem.diff.model import RunsDiff
from postmortem.diff.several import Comparison, compare_runs

__all__ = ["Comparison", "RunsDiff", "compare_runs", "diff_runs"]
