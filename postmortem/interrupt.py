"""Ctrl-C in a command: exit code 130, and one line on stderr at most, at whatever moment it comes.

    starting    nothing is written yet     the process ends at once
    working     the command runs           KeyboardInterrupt, so that the command cleans up and says what remains
    ending      the result is complete     the process ends at once

An exception is no way to end while modules are imported: a library that is interrupted in its own start swallows the
KeyboardInterrupt, or makes another error of it, and Python itself shows a traceback. Only the command line calls this.
A program that imports the package keeps its own handler of SIGINT, as do processes that ignore it (`nohup`, `&`).

This is the first module that a command imports, so it imports little itself.
"""

from __future__ import annotations

import os
import signal
import sys

EXIT_CODE = 130
_LINE = b"postmortem: interrupted.\n"
_DELAY_S = 0.02


class _State:
    """Of this process: whether a command is running, and whether an interrupt has come to it."""

    working = received = False


def watch() -> None:
    """The command line is starting: from now on, SIGINT ends the process with its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _handle)
        sys.unraisablehook = _report_unraisable


def begin_work() -> None:
    """A command begins: from now on, SIGINT raises KeyboardInterrupt."""
    _State.working = True


def end_work() -> None:
    """The command has ended: from now on, SIGINT ends the process again."""
    _State.working = False


def received() -> bool:
    """Whether SIGINT has come while a command was running, whatever became of the exception."""
    return _State.received


def leave() -> None:
    """End the process at once, with the line unless an earlier interrupt has been reported."""
    if not _State.received:
        from contextlib import suppress

        with suppress(OSError):  # nobody can be told
            os.write(2, _LINE)
    os._exit(EXIT_CODE)


def _handle(*_: object) -> None:
    if not _State.working:
        leave()
    _State.received = True
    raise KeyboardInterrupt


def _report_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """An interrupt in a destructor or a callback, where Python can raise nothing, comes again a moment later."""
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)
        return
    import _thread
    import threading

    threading.Timer(_DELAY_S, _thread.interrupt_main).start()
