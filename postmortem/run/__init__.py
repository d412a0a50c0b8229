"""What a run is: rows with keys, segments, journal, manifest, checkpoints, and the canonical names of columns."""

from postmortem.run.checkpoints import Checkpoint
from postmortem.run.history import Segment
from postmortem.run.journal import Event
from postmortem.run.manifest import Manifest
from postmortem.run.model import Labels, Run

__all__ = ["Checkpoint", "Event", "Labels", "Manifest", "Run", "Segment"]
