"""Where errors become messages and exit codes, once for every command.

0 done · 1 an incident was found, only with --check · 2 usage · 3 unreadable input · 70 our own bug · 130 interrupted
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
    """Run `command`; whatever goes wrong ends in one line on stderr and an exit code of its own."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot spell is no reason to fail
            stream.reconfigure(errors="replace")
    try:
        command()
        sys.stdout.flush()
    except PostmortemError as error:
        _fail(plain(error, 2000), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted.", INTERRUPTED)
    except BrokenPipeError:  # the reader (`| head`) has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get("POSTMORTEM_DEBUG") == "1":
            traceback.print_exc()
        what = plain(f"{type(error).__name__}: {error}", 300)
        _fail(f"internal error, please report it ({what}). POSTMORTEM_DEBUG=1 shows where.", OUR_BUG)


def _fail(message: str, code: int) -> None:
    typer.echo(f"postmortem: {message}", err=True)
    sys.exit(code)
