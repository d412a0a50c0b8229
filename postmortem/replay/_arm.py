"""One replay as a process of its own: `python -m postmortem.replay._arm ORDER.json`. Its result lies in the new run."""

from __future__ import annotations

import sys
from pathlib import Path

from postmortem.errors import PostmortemError


def main(file: Path) -> int:
    """Carry out the order in `file`; 0, or the exit code of what kept it from being done, said on stderr."""
    from postmortem.replay.driver import replay
    from postmortem.replay.order import read_order

    try:
        replay(read_order(file), provenance=False)
    except PostmortemError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
