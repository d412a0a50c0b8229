"""`python -m postmortem`."""

from __future__ import annotations

from postmortem.cli import main

if __name__ == "__main__":
    main()
