"""Gradient-norm spikes: the column that moves first, up to eight steps ahead of the loss."""

from __future__ import annotations

from postmortem.detectors._screen import Rule
from postmortem.detectors._spike import spike_detector
from postmortem.incident import Kind

RULE = Rule(sigmas=7.0, floor=1.1, opening=1.7, wanders=True)
"""Three times the baseline supports an incident, five and a half times opens one: gradient norms are heavy-tailed, and
one clipped step is no incident."""

KIND = Kind("grad_norm_spike", "gradient-norm spike")

DETECTOR = spike_detector("grad_norm_spike", "grad_norm", RULE, KIND)
