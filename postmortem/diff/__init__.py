"""Compares two runs: what they share, where they diverge, and whether they converge again.

diff_runs(a, b)        one pair → RunsDiff
diff_many_runs(runs)   three or more runs, each compared with the first → ManyRunsDiff

`postmortem.diff.render` turns either into terminal lines, Markdown, JSON, a picture and files.
"""

from postmortem.diff.compare import diff_many_runs, diff_runs
from postmortem.diff.model import ManyRunsDiff, RunsDiff

__all__ = ["ManyRunsDiff", "RunsDiff", "diff_many_runs", "diff_runs"]
