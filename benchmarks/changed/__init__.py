"""The parts of the bench of changed programs, which `benchmarks/changed_programs.py` runs.

families.py  how each family's program is trained, and how it is logged
programs.py  the lab's program, changed
training.py  a clean run of a seed, and its faults, branched off where they begin
visible.py   whether a fault shows in any column
judge.py     one draft, against the truth
"""
