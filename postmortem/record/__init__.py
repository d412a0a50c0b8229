"""Records a training into a run directory while it runs."""

from postmortem.record.input_warnings import RecordingError, RecordingWarning
from postmortem.record.recorder import Recorder

__all__ = ["Recorder", "RecordingError", "RecordingWarning"]
