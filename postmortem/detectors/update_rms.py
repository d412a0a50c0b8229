"""Spikes of the update RMS (update RMS ÷ lr): the optimizer stepped further than it does."""

from __future__ import annotations

from postmortem.detectors._excursion import spikes
from postmortem.detectors._model import Detector
from postmortem.detectors._screen import Rule
from postmortem.detectors._tracking import spike_stream
from postmortem.incident import Kind

RULE = Rule(sigmas=7.0, floor=0.4, opening=0.7)
"""Half as much again supports an incident, twice opens one: Adam's update RMS ÷ lr is tight around its own level."""


KIND = Kind("update_rms_spike", "update-RMS spike")

DETECTOR = Detector(
    "update_rms",
    (KIND,),
    lambda t: spikes(t, "update_rms", RULE, "update_rms", "update_rms_spike"),
    lambda: spike_stream("update_rms", RULE, "update_rms", "update_rms_spike"),
)
