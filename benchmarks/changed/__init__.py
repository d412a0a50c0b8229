"""The parts of the bench of changed programs (`benchmarks/changed_programs.py`)."""
