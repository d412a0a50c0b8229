"""Spikes of the worst token's loss: a few tokens go wrong before the mean shows it."""

from __future__ import annotations

from postmortem.detectors._screen import Rule
from postmortem.detectors._spike import spike_detector
from postmortem.incident import Kind

RULE = Rule(sigmas=9.0, floor=0.25, opening=0.7, wanders=True)
"""The maximum over a batch is an extreme value and skewed: it supports from 28 % up and opens at twice its level."""

KIND = Kind("token_loss_spike", "token-loss spike")

DETECTOR = spike_detector(
    "token_loss",
    "token_loss_max",
    RULE,
    KIND,
    no_stream="It supports what the loss's own detectors find, and a live loop seldom has the loss of each token.",
)
