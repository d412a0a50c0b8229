"""The training side: what a run writes while it goes on."""

from postmortem.record.input_warnings import RecordingError, RecordingWarning
from postmortem.record.recorder import Recorder

__all__ = ["Recorder", "RecordingError", "RecordingWarning"]
