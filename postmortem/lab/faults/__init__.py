"""Faults that a run can be given, one file each: `FAULT = Fault(slug, title, arrange)`, the slug being that of the cause it makes.

A fault of data or config writes itself into the plan's config, in neutral terms, so that re-driving the run meets it
again. What comes from outside (a flipped bit, a wrong log line, a resume) is done to the run by its driver.
"""

from __future__ import annotations

import sys

from postmortem.discovery import discover
from postmortem.errors import UsageError
from postmortem.lab.fault_plan import Fault


def all_faults() -> tuple[Fault, ...]:
    """Every fault that there is a file for, in order of slug."""
    return discover(sys.modules[__name__], "FAULT", Fault)


def find_fault(slug: str) -> Fault:
    """The fault of that slug; UsageError naming the known ones where there is none."""
    faults = {fault.slug: fault for fault in all_faults()}
    if slug not in faults:
        raise UsageError(f"no fault is called {slug!r}; there are {', '.join(sorted(faults))}")
    return faults[slug]
