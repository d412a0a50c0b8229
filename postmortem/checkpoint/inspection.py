"""What a checkpoint holds and whether it is sound, found without torch and without running anything of it.

Known are the directories that the Checkpointer writes, any other torch.distributed.checkpoint directory, and files of
torch.save. Tables are read through the restricted unpickler, tensors as a stream of bytes: memory does not grow with
the checkpoint.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from postmortem.checkpoint import manifest as manifests
from postmortem.checkpoint.layout import METADATA, Layout, dcp_layout, read_small, regular, torch_layout
from postmortem.checkpoint.streaming import scan
from postmortem.errors import UnreadableInput
from postmortem.run.checkpoints import ROLES
from postmortem.run.manifest import inside
from postmortem.text import plain

CONTENTS = ("model", "moments", "schedule", "loader", "rng", "scaler")
"""What may be inside, in the order in which it is told."""

Progress = Callable[[int, int], None]
_STEP = re.compile(r"(?:^|[-_.])(?:step|checkpoint|ckpt)[-_]?(\d{1,18})(?=\D|$)")
STATE_LIMIT = 256 * 2**20  # bytes of a state-<rank>.json
_STATE = re.compile(r"state-\d+\.json")
_MODEL_TOPS = frozenset({"model", "module", "state_dict", "model_state_dict", "net", "params", "parameters", "weights"})
_SAYS = (
    ("rng", re.compile(r"(^|_)rng(_|$)|random_state")),
    ("loader", re.compile(r"(^|_)(data)?(loader|sampler)s?(_state)?$|^dataset(_state)?$")),
    ("scaler", re.compile(r"(^|_)scaler(_state)?$|^loss_scale$")),
    ("schedule", re.compile(r"(^|_)sched")),
    ("optimizer", re.compile(r"optim|^param_groups$")),
)
_MOMENTS = frozenset(
    {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "exp_avg_slow", "exp_avg_sq_row", "exp_avg_sq_col"}
    | {"momentum_buffer", "square_avg", "grad_avg", "acc_delta"}
)
_SHORT_MOMENTS = frozenset({"m", "v", "mu", "nu", "sum", "momentum"})  # moments only where they stand in an optimizer


@dataclass(frozen=True)
class Inspection:
    """One checkpoint, looked at.

    kind: "postmortem", "dcp" or "torch". declared: "full" or "parameters" where the checkpoint says so. contents: which
    of `CONTENTS` are inside. tensors: how many. nonfinite: tensor → NaN and infinite elements, where there are any;
    None where the tensors were not read. checksums: "ok", "wrong: <file>", "absent" or "not read" (also where the
    tables are refused). discarded: why a
    resume set it aside. problems: all that is wrong, one sentence each.
    """

    path: Path
    kind: str
    role: str
    step: int | None
    complete: bool
    size_bytes: int
    declared: str | None = None
    contents: tuple[str, ...] = ()
    world_size: int | None = None
    tensors: int = 0
    nonfinite: Mapping[str, int] | None = None
    checksums: str = "not read"
    discarded: str | None = None
    problems: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Complete, and nothing wrong with it. Non-finite elements are what was trained, no damage."""
        return self.complete and not self.problems

    @property
    def temporary(self) -> bool:
        """Whether its name says that it is being written, or that a save was killed. The next start removes it."""
        return self.path.name.startswith(".") or self.path.name.endswith(".tmp")


def inspect(path: str | Path, *, deep: bool = True, on_progress: Progress = lambda done, total: None) -> Inspection:
    """Look at the checkpoint at `path`, a directory or a file. Whatever is wrong with it is a problem, not an error.

    Without `deep` only the tables are read: nothing is said of checksums and non-finite elements. `on_progress` hears
    (bytes read, bytes in all).
    """
    path = Path(path)
    look = _Look(path)
    try:
        if path.is_dir():
            _directory(look)
        else:
            look.sizes = {path: path.stat().st_size}
            look.layout = torch_layout(path)
            look.complete = True
        look.tables = True
    except UnreadableInput as error:
        look.problem(error)
    except (OSError, ValueError, RecursionError) as error:
        look.problem(f"{path.name}: cannot be read ({error})")
    if deep:
        _read(look, on_progress)
    return look.result()


def step_of(name: str) -> int | None:
    """The step in the name of a checkpoint, temporary ones included; None where there is none."""
    match = _STEP.search(name)
    return int(match[1]) if match else None


def check(path: str | Path, *, deep: bool = True) -> None:
    """The gate before a checkpoint is loaded.

    Raises:
        UnreadableInput: it is cut short or damaged, or holds what no checkpoint needs. The message says what.
    """
    found = inspect(path, deep=deep)
    if not found.sound:
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        what = (found.problems[0] if found.problems else "it is incomplete: the save was cut short") + more
        raise UnreadableInput(f"not loaded: {what}.", file=plain(path, 1000), hint="Take another checkpoint.")


@dataclass
class _Look:
    """An inspection under way."""

    path: Path
    kind: str = "torch"
    complete: bool = False
    tables: bool = False  # whether they could be read: without, nothing is known of the tensors
    sizes: dict[Path, int] = field(default_factory=dict[Path, int])
    layout: Layout = field(default_factory=Layout)
    manifest: manifests.CheckpointManifest | None = None
    sections: set[str] = field(default_factory=set[str])
    nonfinite: dict[str, int] | None = None
    checksums: str = "not read"
    problems: list[str] = field(default_factory=list[str])

    def problem(self, what: object) -> None:
        self.problems.append(plain(what, 300).rstrip("."))

    def result(self) -> Inspection:
        said = self.manifest
        folder, name = self.path.absolute().parent.name, self.path.name
        return Inspection(
            self.path,
            self.kind,
            said.role if said else folder if folder in ROLES else "other",
            said.step if said else step_of(name),
            self.complete and not name.startswith(".") and not name.endswith(".tmp"),
            sum(self.sizes.values()),
            said.contents if said else None,
            contents_of(self.layout.tensors, self.layout.others | self.sections),
            said.world_size if said else None,
            len(self.layout.tensors),
            self.nonfinite,
            self.checksums,
            said.discarded if said else None,
            (*self.problems, *(plain(problem, 300).rstrip(".") for problem in self.layout.problems)),
        )


def contents_of(tensors: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """Which of `CONTENTS` a state holds, by the dotted names of its tensors and of everything else in it."""
    found = {_content(name, tensor=True) for name in tensors} | {_content(name, tensor=False) for name in others}
    return tuple(content for content in CONTENTS if content in found)


def _content(name: str, *, tensor: bool) -> str | None:
    """What one entry is part of: the first section of its name that says something decides."""
    parts = re.split(r"[./]", name.lower())
    if parts[0] in _MODEL_TOPS:
        return "model" if tensor else None
    if not _MOMENTS.isdisjoint(parts):
        return "moments"
    for part in parts:
        for content, pattern in _SAYS:
            if pattern.search(part):
                moment = content == "optimizer" and tensor and not _SHORT_MOMENTS.isdisjoint(parts)
                return "moments" if moment else content
        if part in _MODEL_TOPS:
            break
    return "model" if tensor else None


def _directory(look: _Look) -> None:
    """Tables, sizes and plain state of a directory."""
    folder = look.path
    for name in (METADATA, manifests.NAME):
        inside(folder, name, folder.name)
    look.kind = "postmortem" if (folder / manifests.NAME).exists() else "dcp"
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink()]
    look.sizes = {file: file.stat().st_size for file in files}
    if not (folder / METADATA).exists():
        raise UnreadableInput("the save was cut short, or this is no checkpoint.", file=METADATA, hint="It is missing.")
    if look.kind == "postmortem":
        regular(folder / manifests.NAME, manifests.NAME).close()
        look.manifest = manifests.read(folder)
        for name, facts in look.manifest.files.items():
            file = inside(folder, name, manifests.NAME)
            if not file.is_file():
                look.problem(f"{name}: missing")
            elif file.stat().st_size != facts["bytes"]:
                look.problem(f"{name}: {file.stat().st_size} bytes instead of {facts['bytes']}: it was cut short")
    look.complete = not look.problems
    look.layout = dcp_layout(folder)
    for file in files:
        if _STATE.fullmatch(file.name):
            look.sections |= _state_names(file)


def _state_names(file: Path) -> set[str]:
    """`section.key` of the plain state in a state-<rank>.json, as far as it is not empty.

    Raises:
        UnreadableInput: it is no such file.
    """
    try:
        document: object = json.loads(read_small(file, file.name, STATE_LIMIT))
    except (ValueError, RecursionError) as error:
        raise UnreadableInput("damaged, or nested deeper than any state is: no JSON.", file=file.name) from error
    state = cast(dict[str, object], document).get("state") if isinstance(document, dict) else None
    if not isinstance(state, dict):
        raise UnreadableInput("no JSON object with a state in it.", file=file.name)
    names: set[str] = set()
    for section, value in cast(dict[str, object], state).items():
        keys = cast(dict[str, object], value) if isinstance(value, dict) else {"": value}
        names |= {f"{section[:200]}.{key[:200]}" for key in keys if value not in (None, {}, [])}
    return names


def _read(look: _Look, on_progress: Progress) -> None:
    """Every byte once: checksums and non-finite elements."""
    known = {} if look.manifest is None else {look.path / name: facts for name, facts in look.manifest.files.items()}
    resolved = {file.resolve(): facts for file, facts in known.items()}
    todo = {file.resolve(): size for file, size in look.sizes.items()}
    wanted = [file for file in todo if file in resolved or file in look.layout.pieces]
    pieces = {file.resolve(): found for file, found in look.layout.pieces.items()}
    total, done = sum(todo[file] for file in wanted), 0
    nonfinite: dict[str, int] = {}
    wrong: list[str] = []

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        on_progress(done, total)

    for file in wanted:
        name, facts = file.name, resolved.get(file)
        try:
            with regular(file, name) as stream:
                found = scan(stream, todo[file], pieces.get(file, ()), name, whole=facts is not None, on_bytes=on_bytes)
        except (UnreadableInput, OSError) as error:
            look.problem(error)
            continue
        for tensor, count in found.nonfinite.items():
            nonfinite[tensor] = nonfinite.get(tensor, 0) + count
        if found.wrong:
            look.problem(f"{found.wrong[0]} is damaged: its CRC32 is wrong")
        if facts is not None and found.sha256 != facts["sha256"]:
            look.problem(f"{name}: damaged: its SHA-256 is not what {manifests.NAME} says")
        if found.wrong or (facts is not None and found.sha256 != facts["sha256"]):
            wrong.append(name)
    look.nonfinite = dict(sorted(nonfinite.items())) if look.tables else None
    checked = bool(resolved) or any(piece.crc is not None for some in pieces.values() for piece in some)
    if wrong or look.tables:
        look.checksums = f"wrong: {plain(wrong[0])}" if wrong else "ok" if checked else "absent"
