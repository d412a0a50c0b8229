"""Where errors become messages and exit codes, once for every command.

0 done · 1 the answer of a check or a test is no · 2 usage · 3 unreadable input · 70 our own bug · 130 interrupted
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable

import typer

from postmortem.errors import PostmortemError
from postmortem.text import plain

OUR_BUG = 70
INTERRUPTED = 130


def guarded(command: Callable[[], object]) -> None:
    """Run `command` and exit; whatever goes wrong ends in one line on stderr and an exit code of its own."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot spell is no reason to fail
            stream.reconfigure(errors="replace")
    code = _run(command)
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (`| head`) has what it wanted; nothing may be flushed once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _run(command: Callable[[], object]) -> int | str | None:
    try:
        command()
    except SystemExit as end:  # typer ends this way, and with 1 where the reader of its output went away
        return 0 if isinstance(end.__context__, BrokenPipeError) else end.code
    except PostmortemError as error:
        if os.environ.get("POSTMORTEM_DEBUG") == "1" and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        return _say(plain(error, 2000), error.exit_code)
    except KeyboardInterrupt:
        return _say("interrupted.", INTERRUPTED)
    except BrokenPipeError:
        return 0
    except Exception as error:
        if os.environ.get("POSTMORTEM_DEBUG") == "1":
            traceback.print_exc()
        from postmortem.discovery import culprit

        plugin = culprit(error)
        if plugin is not None:
            return _say(plain(plugin, 2000), plugin.exit_code)
        what = plain(f"{type(error).__name__}: {error}", 300)
        return _say(f"internal error, please report it ({what}). POSTMORTEM_DEBUG=1 shows where.", OUR_BUG)
    return 0


def _say(message: str, code: int) -> int:
    typer.echo(f"postmortem: {message}", err=True)
    return code
