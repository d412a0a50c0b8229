"""Records a training run: rows, events, hashes and watched figures, on disk while it trains."""

from postmortem.record.input_warnings import RecordingError, RecordingWarning
from postmortem.record.recorder import Recorder

__all__ = ["Recorder", "RecordingError", "RecordingWarning"]
