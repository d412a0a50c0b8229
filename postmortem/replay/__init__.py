"""One replay: a run's program driven again from a checkpoint, with changes or without, into a new run."""
