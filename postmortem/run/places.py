"""The paths that a run names, resolved at a small cost for each: a run has tens of thousands of checkpoints."""

from __future__ import annotations

import os
import stat
from functools import cached_property
from pathlib import Path

from postmortem.run.manifest import inside

_MOST_FOLDERS = 10_000  # kept at a time: each path of a hostile journal could be in a folder of its own


class Places:
    """Finds paths inside the folder `root`, with the answers of `inside`.

    A path is walked down from `root`, which is resolved once, and each folder on the way is looked at once. So a path
    costs one look at its last part. Whatever is a link, leaves `root`, or is no plain path is left to `inside`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def base(self) -> str:
        """`root` without links."""
        return os.path.realpath(self.root)

    @cached_property
    def _folders(self) -> dict[str, tuple[str, bool] | None]:
        return {"": (self.base, True)}

    def find(self, named: str, where: str) -> tuple[str, bool]:
        """(the path `root / named`, resolved; whether it exists). `where` names the place that names it.

        Raises:
            UnreadableInput: it is outside `root`, by `..`, an absolute path or a link, or it is no valid path.
        """
        head, _, name = named.rpartition("/")
        plain = "\0" not in named and (named.isascii() or _encodes(named)) and os.sep == "/"
        folder = self._folder(head) if plain and not named.startswith("/") else None
        place = None if folder is None else _step_down(folder, name)
        if place is None or not self._is_inside(place[0]):
            target = inside(self.root, named, where)
            return str(target), _exists(target)
        return place

    def _folder(self, head: str) -> tuple[str, bool] | None:
        """The same for the folder of a path; None where it has a link in it."""
        if head in self._folders:
            return self._folders[head]
        place: tuple[str, bool] | None = self._folders[""]
        for part in head.split("/"):
            place = None if place is None else _step_down(place, part)
        if len(self._folders) > _MOST_FOLDERS:
            self._folders.clear()
            self._folders[""] = (self.base, True)
        self._folders[head] = place
        return place

    def _is_inside(self, path: str) -> bool:
        return path == self.base or path.startswith(self.base.rstrip("/") + "/")


def _step_down(folder: tuple[str, bool], part: str) -> tuple[str, bool] | None:
    """(path, whether it exists) of one more part, below a path that is resolved; None where the part is a link."""
    path, exists = folder
    if part in ("", "."):
        return folder
    if part == "..":
        path = path.rpartition("/")[0] or "/"
        return path, os.access(path, os.F_OK)
    path = f"{path.rstrip('/')}/{part}"
    # `access` is asked first, because it needs no exception to say no
    if not exists or not os.access(path, os.F_OK, follow_symlinks=False):
        return path, False
    try:
        return None if stat.S_ISLNK(os.lstat(path).st_mode) else (path, True)
    except OSError:  # the retention of a live run may be removing it
        return path, False


def _encodes(text: str) -> bool:
    try:
        return bool(os.fsencode(text))
    except ValueError:
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
