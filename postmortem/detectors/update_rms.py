"""Spikes of the update RMS (update RMS ÷ lr): the optimizer stepped further than it does."""

from __future__ import annotations

from postmortem.detectors._screen import Rule
from postmortem.detectors._spike import spike_detector
from postmortem.incident import Kind

RULE = Rule(sigmas=7.0, floor=0.4, opening=0.7, wanders=True)
"""Half as much again supports an incident, twice opens one: Adam's update RMS ÷ lr is tight around its own level."""

KIND = Kind("update_rms_spike", "update-RMS spike")

DETECTOR = spike_detector("update_rms", "update_rms", RULE, KIND)
