"""Where errors become messages and exit codes, once for every command; `postmortem.errors` lists the codes."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable

import typer

from postmortem.errors import InternalError, Interrupted, PostmortemError
from postmortem.text import plain

_DEBUG = "POSTMORTEM_DEBUG"


def guarded(command: Callable[[], object]) -> None:
    """Run `command` and exit; any error ends in one line on stderr and the exit code of its class."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot encode is no reason to fail
            stream.reconfigure(errors="replace")
    code = _run(command)
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (`| head`) has read enough; nothing may be flushed again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _run(command: Callable[[], object]) -> int | str | None:
    try:
        command()
    except SystemExit as end:  # typer ends this way, and with 1 if the reader of its output is gone
        return 0 if isinstance(end.__context__, BrokenPipeError) else end.code
    except PostmortemError as error:
        if os.environ.get(_DEBUG) == "1" and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        return _report(error)
    except KeyboardInterrupt:
        return _report(Interrupted("interrupted."))
    except BrokenPipeError:
        return 0
    except Exception as error:  # noqa: BLE001 - a defect is one line, too
        if os.environ.get(_DEBUG) == "1":
            traceback.print_exc()
        from postmortem.discovery import plugin_error

        reason = plain(f"{type(error).__name__}: {error}", 300)
        defect = InternalError(f"internal error, please report it ({reason}). {_DEBUG}=1 shows where.")
        return _report(plugin_error(error) or defect)
    return 0


def _report(error: PostmortemError) -> int:
    """Print the message of an error, if it has one; its exit code."""
    message = plain(error, 2000)
    if message:
        typer.echo(f"postmortem: {message}", err=True)
    return error.exit_code
