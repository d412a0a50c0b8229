"""The faults that a lab run can have, one file each: `FAULT = Fault(slug, title, fill_plan)`; the slug is its cause's.

A fault of data or config writes itself into the plan's config, in neutral terms, so that a replay of the run has it
again. A fault from outside (a flipped bit, a wrong log line, a resume) is applied by the session that makes the run.
"""

from __future__ import annotations

import sys

from postmortem.discovery import discover
from postmortem.errors import UsageError
from postmortem.lab.fault_plan import Fault


def all_faults() -> tuple[Fault, ...]:
    """Every fault that has a file, sorted by slug."""
    return discover(sys.modules[__name__], "FAULT", Fault)


def find_fault(slug: str) -> Fault:
    """The fault with this slug. Raises UsageError, which names all faults, if there is none."""
    faults = {fault.slug: fault for fault in all_faults()}
    if slug not in faults:
        raise UsageError(f"there is no fault {slug!r}; choose from {', '.join(sorted(faults))}")
    return faults[slug]
