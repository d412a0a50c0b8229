"""Probing: what single batches do to the states of several checkpoints, measured without training."""
