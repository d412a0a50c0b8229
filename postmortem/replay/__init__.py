"""Replays: a run's program trains again from a checkpoint, changed or unchanged, and writes a new run."""
