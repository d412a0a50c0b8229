"""The commands `postmortem` (also as `python -m postmortem`) and `runs-diff`: Ctrl-C is handled before all else."""

from __future__ import annotations

import atexit
import importlib
import os


class _Ending:
    """The exit code with which this process ends; None while a command runs, and after a traceback."""

    code: int | None = None


def main() -> None:
    """The `postmortem` command."""
    _run("postmortem.cli")


def runs_diff() -> None:
    """The `runs-diff` command."""
    _run("postmortem.cli.runs_diff")


def _run(module: str) -> None:
    """Call `main` of `module`, which is imported only when an interrupt is handled."""
    try:
        importlib.import_module("postmortem.interrupt").watch()
        atexit.register(_end)
        importlib.import_module(module).main()
    except KeyboardInterrupt:  # before the first line, or between two states of `interrupt`
        os._exit(130)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            _Ending.code = end.code or 0
        raise


def _end() -> None:
    """End the process without taking the interpreter apart, which takes a tenth of a command's time, and in which no
    interrupt can be handled.

    This runs after all other functions of `atexit`, and after all threads that Python waits for. What it would have
    closed as well are files that a driven program left open.
    """
    if _Ending.code is None:
        return
    import gc
    import io
    from contextlib import suppress

    kinds = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)
    for file in gc.get_objects():
        if type(file) in kinds and not file.closed:
            with suppress(OSError, ValueError):  # `guarded` has judged the standard output
                file.flush()
    os._exit(_Ending.code)


if __name__ == "__main__":
    main()
