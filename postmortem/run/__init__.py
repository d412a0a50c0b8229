"""A run: its rows and their keys, segments, journal, manifest, checkpoints, and the canonical names of columns."""

from postmortem.run.checkpoints import Checkpoint
from postmortem.run.history import Segment
from postmortem.run.journal import Event
from postmortem.run.manifest import Manifest
from postmortem.run.model import LabelSeries, Run

__all__ = ["Checkpoint", "Event", "LabelSeries", "Manifest", "Run", "Segment"]
