"""Where errors become messages and exit codes, once for every command; `postmortem.errors` lists the codes."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any

import typer

from postmortem import interrupt
from postmortem.cli._faults import DEBUG, as_ours, flush_output, open_closed_streams
from postmortem.errors import Interrupted, PostmortemError
from postmortem.text import plain

_UsageError: Any = typer.BadParameter.__base__  # of click, which newer versions of typer contain under another name


def explained(command: Callable[..., object]) -> Callable[..., object]:
    """`command`, whose every error is one of ours before typer sees it, which has exit codes of its own for some."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> object:
        try:
            return command(*arguments, **options)
        except (PostmortemError, BrokenPipeError, typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            raise as_ours(error) from error

    return run


def guarded(command: Callable[[], int | None]) -> None:
    """Run `command` and exit with its code; any error ends in one line on stderr and the exit code of its class, and a
    command line that is wrong in typer's lines about it."""
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot encode is no reason to fail
            stream.reconfigure(errors="replace")
    code = _run(lambda: _interruptible(command))
    interrupt.end_work()
    unwritten = flush_output()
    if unwritten is not None and not code:
        code = _report(unwritten)
    sys.exit(code)


def _interruptible(command: Callable[[], int | None]) -> int | None:
    """The exit code of `command`. An interrupt in it is one here, even if a library has made something else of it."""
    interrupt.begin_work()
    try:
        code = command()
    except Interrupted:
        raise
    except BaseException as error:
        if interrupt.received():
            raise KeyboardInterrupt from error
        raise
    if interrupt.received():
        raise KeyboardInterrupt
    return code


def _run(command: Callable[[], int | None]) -> int | str | None:
    try:
        return command()
    except _UsageError as error:
        error.message = "\n".join(plain(line, 2000) for line in error.message.split("\n"))
        with suppress(OSError, ValueError):
            error.show()
        return error.exit_code
    except SystemExit as end:  # typer ends this way, and with 1 if the reader of its output is gone
        return 0 if isinstance(end.__context__, BrokenPipeError) else end.code
    except KeyboardInterrupt:
        return _report(Interrupted("interrupted."))
    except BrokenPipeError:
        return 0
    except Exception as error:  # noqa: BLE001 - a defect of ours ends in one line, too
        return _report(as_ours(error), error)


def _report(error: PostmortemError, cause: BaseException | None = None) -> int:
    """Print the message of an error, if it has one; its exit code."""
    with suppress(OSError, ValueError):  # where stderr is full or closed, the code must do
        if os.environ.get(DEBUG) == "1":
            cause = error.__cause__ or (cause if cause is not error else None)
            if cause is not None:
                traceback.print_exception(cause)
        message = plain(error, 2000)
        if message:
            typer.echo(f"postmortem: {message}", err=True)
    return error.exit_code
