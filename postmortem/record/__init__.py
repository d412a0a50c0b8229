"""The training side: what a run writes while it goes on."""

from postmortem.record.recorder import Recorder, RecordingError, RecordingWarning

__all__ = ["Recorder", "RecordingError", "RecordingWarning"]
