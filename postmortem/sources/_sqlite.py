"""SQLite databases of strangers: opened for reading only, and bounded in time, values and rows."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from postmortem.errors import UnreadableInput
from postmortem.sources._files import display_name, require_file
from postmortem.sources._source import Candidate
from postmortem.text import plain

if TYPE_CHECKING:
    import sqlite3

_MAGIC = b"SQLite format 3\0"
_MOST_SECONDS = 8
_EVERY = 10_000  # instructions of SQLite's between two looks at the clock
_LONGEST = 2**20  # bytes of one value
_MOST_COPIED = 2**31  # bytes


def columns_of(candidate: Candidate, table: str) -> frozenset[str]:
    """The columns of a table in a database; none where it is no database, or has no plain table of this name."""
    if not candidate.head.startswith(_MAGIC):
        return frozenset()
    import sqlite3  # costs what reading a small log costs

    with suppress(sqlite3.Error, OSError, UnreadableInput), _connected(candidate.path, "") as database:
        return columns(database, table)
    return frozenset()


@contextmanager
def opened(path: Path, *tables: str) -> Generator[sqlite3.Connection]:
    """The database, in which `tables` are plain tables and not views, whose definition could compute anything.

    What was written but stands in its `-wal` file yet is read from a copy, as SQLite would have to write for it.

    Raises:
        UnreadableInput: no database, a damaged one, no such table, or one that takes too long to read.
    """
    import sqlite3

    name = display_name(path)
    require_file(path, name)
    try:
        with _connected(path, name) as database:
            for table in tables:
                if not columns(database, table):
                    raise UnreadableInput(f"it has no table {table}.", file=name)
            yield database
    except sqlite3.OperationalError as error:
        slow = "interrupted" in str(error)
        why = f"that takes more than {_MOST_SECONDS} s" if slow else plain(error, 120)
        raise UnreadableInput(f"cannot be read ({why}).", file=name) from error
    except (sqlite3.Error, OverflowError) as error:
        raise UnreadableInput(f"no SQLite database that can be read ({plain(error, 120)}).", file=name) from error


def columns(database: sqlite3.Connection, table: str) -> frozenset[str]:
    """The columns of a plain table, without those that are computed; none where there is no such table."""
    kind = database.execute("SELECT type FROM sqlite_master WHERE name = ? AND sql LIKE 'CREATE TABLE%'", (table,))
    if kind.fetchone() != ("table",):
        return frozenset()
    return frozenset(name for (name,) in database.execute("SELECT name FROM pragma_table_info(?)", (table,)))


@contextmanager
def _connected(path: Path, name: str) -> Generator[sqlite3.Connection]:
    """A connection to the database, or to a temporary copy of it and its `-wal` file where that is not empty."""
    log = path.with_name(f"{path.name}-wal")
    if not (log.is_file() and log.stat().st_size):
        with closing(_bounded(path, "mode=ro&immutable=1")) as database:
            yield database
        return
    if path.stat().st_size + log.stat().st_size > _MOST_COPIED:
        raise UnreadableInput(
            f"{plain(log.name, 120)} beside it has changes that are not in it yet, and both are too large to copy.",
            file=name,
            hint=f"Write them into it: sqlite3 {plain(path, 200)} 'PRAGMA wal_checkpoint'",
        )
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory(prefix="postmortem-") as folder:
        copy = Path(folder, "copy.db")
        shutil.copyfile(path, copy)
        shutil.copyfile(log, copy.with_name(f"{copy.name}-wal"))
        with closing(_bounded(copy, "mode=rw")) as database:
            yield database


def _bounded(path: Path, mode: str) -> sqlite3.Connection:
    import sqlite3

    database = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True)
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    database.execute("PRAGMA trusted_schema = OFF")
    database.text_factory = _text
    end = time.thread_time() + _MOST_SECONDS
    database.set_progress_handler(lambda: time.thread_time() > end, _EVERY)
    return database


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
