"""Probes: the loss and gradient of single batches in the states of several checkpoints, without training."""
