"""Finds out what a checkpoint contains and whether it is sound, without torch and without running anything of it.

It reads the directories that the Checkpointer writes, any other torch.distributed.checkpoint directory, folders in
which a framework keeps a file for each part of its state, and files of torch.save and safetensors. Tables go through
the restricted unpickler, tensors are a stream of bytes: the memory needed does not grow with the checkpoint.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from postmortem.atomic import real_path
from postmortem.checkpoint import manifest as manifests
from postmortem.checkpoint.document import inline_nonfinite, read_state_document, state_names
from postmortem.checkpoint.framework_folder import folder_layout, safetensors_layout, state_files
from postmortem.checkpoint.layout import METADATA, Layout, dcp_layout, open_part, torch_layout
from postmortem.checkpoint.streaming import FileSpan, TensorBytes, is_mask, scan
from postmortem.errors import UnreadableInput
from postmortem.run.checkpoints import file_sizes, role_of, step_in_name
from postmortem.run.places import Places
from postmortem.text import plain

CONTENTS = ("model", "moments", "schedule", "loader", "rng", "scaler")
"""What may be in a checkpoint, in the order in which it is reported."""

Progress = Callable[[int, int], None]
_BLOCK = 2**20  # bytes that are looked at at once
_STATE = re.compile(r"[/\\]state-\d+\.json\Z")
_MODEL_TOPS = frozenset({"model", "module", "state_dict", "model_state_dict", "net", "params", "parameters", "weights"})
_CONTENT_PATTERNS = (
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
_SHORT_MOMENTS = frozenset({"m", "v", "mu", "nu", "sum", "momentum"})  # moments only inside an optimizer


@dataclass(frozen=True)
class Inspection:
    """What was found out about one checkpoint.

    kind: "postmortem", "dcp", "framework" or "torch". declared: "full" or "parameters", if the checkpoint says so.
    contents: which of `CONTENTS` are inside. optimizer: whether there is any state of one, also without moments.
    tensors: how many. nonfinite: tensor → number of NaN and infinite elements, for parameters and moments that have
    any; None if the tensors were not read. recorded: the same, as the save recorded it. checksums: "ok",
    "wrong: <file>", "absent" or "not read" (also if the tables are refused). discarded: why a resume set it aside.
    problems: everything that is wrong, one sentence each.
    """

    path: Path
    kind: str
    role: str
    step: int | None
    complete: bool
    size_bytes: int
    declared: str | None = None
    contents: tuple[str, ...] = ()
    optimizer: bool = False
    world_size: int | None = None
    tensors: int = 0
    nonfinite: Mapping[str, int] | None = None
    recorded: Mapping[str, int] | None = None
    checksums: str = "not read"
    discarded: str | None = None
    problems: tuple[str, ...] = ()

    @property
    def known_nonfinite(self) -> Mapping[str, int] | None:
        """`nonfinite` if the tensors were read, else what the save recorded; None if neither is known."""
        return self.recorded if self.nonfinite is None else self.nonfinite

    @property
    def sound(self) -> bool:
        """Whether it is complete and undamaged. Non-finite elements come from training and are no damage."""
        return self.complete and not self.problems

    @property
    def temporary(self) -> bool:
        """Whether its name says that a save is in progress, or was killed. The next start removes it."""
        return self.path.name.startswith(".") or self.path.name.endswith(".tmp")


def inspect(
    path: str | Path, *, deep: bool = True, pieces: bool = True, on_progress: Progress = lambda done, total: None
) -> Inspection:
    """Inspect the checkpoint at `path`, a directory or a file. Damage is listed in `problems`; it is no error.

    Without `deep` only the tables are read, not the checksums and the tensors; without `pieces`, of a directory only
    those that describe all of it, and not those with each tensor. `on_progress` gets (bytes read, bytes in all).
    """
    path = Path(path)
    draft = _Draft(path)
    try:
        if path.is_dir():
            _directory(draft, pieces=pieces or deep, deep=deep)
        else:
            draft.sizes = {str(path): path.stat().st_size}
            draft.layout = safetensors_layout(path) if path.suffix == ".safetensors" else torch_layout(path)
            draft.complete = True
        draft.tables = True
    except UnreadableInput as error:
        draft.add_problem(error)
    except (OSError, ValueError, RecursionError) as error:
        draft.add_problem(f"{path.name}: cannot be read ({error})")
    if deep:
        _read(draft, on_progress)
    return draft.result()


def require_sound(path: str | Path, *, deep: bool = True, allow_nonfinite: bool = False) -> None:
    """Check a checkpoint before it is loaded.

    Raises:
        UnreadableInput: it is cut short or damaged, or holds something that no checkpoint needs; or, unless that is
            allowed, NaN or infinite elements. The message says what.
    """
    inspection = inspect(path, deep=deep)
    nonfinite = inspection.known_nonfinite
    if nonfinite and not allow_nonfinite and inspection.sound:
        raise UnreadableInput(
            f"not loaded: it is not finite ({nonfinite_text(nonfinite)}).",
            file=plain(path, 1000),
            hint="Take an earlier checkpoint: postmortem checkpoints RUN shows which are finite.",
        )
    if not inspection.sound:
        more = f" (and {len(inspection.problems) - 1} more)" if len(inspection.problems) > 1 else ""
        problem = inspection.problems[0] if inspection.problems else "it is incomplete: the save was cut short"
        raise UnreadableInput(f"not loaded: {problem}{more}.", file=plain(path, 1000), hint="Take another checkpoint.")


def nonfinite_text(nonfinite: Mapping[str, int]) -> str:
    """How many elements of which tensors are not finite."""
    first, number = min(nonfinite.items())
    more = f" and {len(nonfinite) - 1} more tensors" if len(nonfinite) > 1 else ""
    return f"{number:,} element{'s' if number > 1 else ''} of {plain(first, 80)}{more}"


@dataclass
class _Draft:
    """An inspection in progress."""

    path: Path
    kind: str = "torch"
    complete: bool = False
    tables: bool = False  # whether they could be read; otherwise nothing is known about the tensors
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    layout: Layout = field(default_factory=Layout)
    manifest: manifests.CheckpointManifest | None = None
    sections: set[str] = field(default_factory=set[str])
    inline_nonfinite: dict[str, int] = field(default_factory=dict[str, int])
    nonfinite: dict[str, int] | None = None
    checksums: str = "not read"
    problems: list[str] = field(default_factory=list[str])

    def add_problem(self, problem: object) -> None:
        self.problems.append(plain(problem, 300).rstrip("."))

    def result(self) -> Inspection:
        manifest = self.manifest
        name = self.path.name
        return Inspection(
            self.path,
            self.kind,
            manifest.role if manifest else role_of(self.path),
            manifest.step if manifest else step_in_name(name),
            self.complete and not name.startswith(".") and not name.endswith(".tmp"),
            sum(self.sizes.values()),
            manifest.contents if manifest else None,
            contents_of(self.layout.tensors, self.layout.others | self.sections),
            self._has_optimizer(),
            manifest.world_size if manifest else None,
            len(self.layout.tensors),
            self.nonfinite,
            manifest.nonfinite if manifest else None,
            self.checksums,
            manifest.discarded if manifest else None,
            (*self.problems, *(plain(problem, 300).rstrip(".") for problem in self.layout.problems)),
        )

    def _has_optimizer(self) -> bool:
        named = ((self.layout.tensors, True), (self.layout.others | self.sections, False))
        return any(_content(name, tensor=t) in ("optimizer", "moments") for names, t in named for name in names)


def contents_of(tensors: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """Which of `CONTENTS` are in a state, by the dotted names of its tensors and of everything else in it."""
    contents = {_content(name, tensor=True) for name in tensors} | {_content(name, tensor=False) for name in others}
    return tuple(content for content in CONTENTS if content in contents)


def trained(tensors: Iterable[str], names: Iterable[str]) -> set[str]:
    """Those of `tensors` that training changes: parameters and moments. `names` are all names in the state. What a
    callback or a loader keeps may be infinite on purpose, such as the best score so far."""
    has_model = any(name.partition(".")[0].lower() in _MODEL_TOPS for name in names)
    contents = {name: _content(name, tensor=True) for name in tensors}
    return {
        name
        for name, content in contents.items()
        if content in ("moments", "optimizer")
        or (content == "model" and (not has_model or name.partition(".")[0].lower() in _MODEL_TOPS))
    }


@lru_cache(maxsize=4096)  # the checkpoints of a run have the same names
def _content(name: str, *, tensor: bool) -> str | None:
    """What one entry is part of: the first known section of its name decides."""
    parts = re.split(r"[./]", name.lower())
    if parts[0] in _MODEL_TOPS:
        return "model" if tensor else None
    if not _MOMENTS.isdisjoint(parts):
        return "moments"
    for part in parts:
        for content, pattern in _CONTENT_PATTERNS:
            if pattern.search(part):
                moment = content == "optimizer" and tensor and not _SHORT_MOMENTS.isdisjoint(parts)
                return "moments" if moment else content
        if part in _MODEL_TOPS:
            break
    return "model" if tensor else None


def _directory(draft: _Draft, *, pieces: bool, deep: bool) -> None:
    """Read the tables, sizes and plain state of a directory; with `deep` also the values of small tensors in it."""
    folder, places = draft.path, Places(draft.path)
    draft.sizes = file_sizes(folder)
    draft.kind = "postmortem" if _exists(draft, manifests.NAME, places) else "dcp"
    if draft.kind == "dcp" and not _exists(draft, METADATA, places) and (files := state_files(folder)):
        draft.kind, draft.complete = "framework", True
        draft.layout = folder_layout(folder, files)
        return
    if not _exists(draft, METADATA, places):
        raise UnreadableInput("the save was cut short, or this is no checkpoint.", file=METADATA, hint="It is missing.")
    if draft.kind == "postmortem":
        draft.manifest = manifests.read(folder)
        for name, digest in draft.manifest.files.items():
            size = _size(draft, name, places)
            if size is None:
                draft.add_problem(f"{name}: missing")
            elif size != digest.bytes:
                draft.add_problem(f"{name}: {size} bytes instead of {digest.bytes}: it was cut short")
    draft.complete = not draft.problems
    draft.layout = dcp_layout(places, pieces=pieces)
    for file in draft.sizes:
        if _STATE.search(file):
            document = read_state_document(Path(file), Path(file).name)
            draft.sections |= state_names(document)
            if deep:
                draft.inline_nonfinite |= inline_nonfinite(document)


def _exists(draft: _Draft, name: str, places: Places) -> bool:
    """Whether there is a file `name`. Raises UnreadableInput where it is a link out of the checkpoint."""
    return _listed(draft, name) is not None or places.find(name, draft.path.name)[1]


def _listed(draft: _Draft, name: str) -> int | None:
    """Bytes of a regular file that was listed: it is no link, and not behind one."""
    return draft.sizes.get(f"{draft.path}{os.sep}{name}")


def _size(draft: _Draft, name: str, places: Places) -> int | None:
    """Bytes of a file that checkpoint.json names; None where it is missing, or is no regular file."""
    listed = _listed(draft, name)
    if listed is not None:
        return listed
    target = Path(places.find(name, manifests.NAME)[0])
    return target.stat().st_size if target.is_file() else None


def _is_stored_mask(draft: _Draft, pieces: Mapping[Path, Sequence[FileSpan]], name: str) -> bool:
    """Whether a tensor of the model, of which no optimizer has moments, is an attention mask."""
    _, _, own = name.partition(".")
    if _content(name, tensor=True) != "model" or any(f".{own}." in other for other in draft.layout.tensors):
        return False
    views = [(file, s, view) for file, spans in pieces.items() for s in spans for view in s.views if view.name == name]
    with suppress(UnreadableInput, OSError):
        return bool(views) and all(is_mask(view.dtype, _blocks(file, span, view)) for file, span, view in views)
    return False


def _blocks(file: Path, span: FileSpan, view: TensorBytes) -> Iterator[bytes]:
    with open_part(file, file.name) as stream:
        stream.seek(span.start + view.first)
        for first in range(view.first, view.last, _BLOCK):
            yield stream.read(min(_BLOCK, view.last - first))


def _read(draft: _Draft, on_progress: Progress) -> None:
    """Read every byte once, for checksums and non-finite elements."""
    digests = {} if draft.manifest is None else draft.manifest.files
    resolved = {real_path(draft.path / name): digest for name, digest in digests.items()}
    todo = {real_path(Path(file)): size for file, size in draft.sizes.items()}
    files = [file for file in todo if file in resolved or file in draft.layout.pieces]
    pieces = {real_path(file): spans for file, spans in draft.layout.pieces.items()}
    total, done = sum(todo[file] for file in files), 0
    nonfinite = draft.inline_nonfinite
    wrong: list[str] = []

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        on_progress(done, total)

    for file in files:
        name, digest = file.name, resolved.get(file)
        try:
            with open_part(file, name) as stream:
                result = scan(
                    stream, todo[file], pieces.get(file, ()), name, whole=digest is not None, on_bytes=on_bytes
                )
        except (UnreadableInput, OSError) as error:
            draft.add_problem(error)
            continue
        for tensor, count in result.nonfinite.items():
            nonfinite[tensor] = nonfinite.get(tensor, 0) + count
        if result.wrong:
            draft.add_problem(f"{result.wrong[0]} is damaged: its CRC32 is wrong")
        if digest is not None and result.sha256 != digest.sha256:
            draft.add_problem(f"{name}: damaged: its SHA-256 is not what {manifests.NAME} says")
        if result.wrong or (digest is not None and result.sha256 != digest.sha256):
            wrong.append(name)
    broken = {name: nonfinite[name] for name in sorted(trained(nonfinite, draft.layout.tensors | draft.sections))}
    broken = {name: count for name, count in broken.items() if not _is_stored_mask(draft, pieces, name)}
    draft.nonfinite = broken if draft.tables else None
    checked = bool(resolved) or any(piece.crc is not None for spans in pieces.values() for piece in spans)
    if wrong or draft.tables:
        draft.checksums = f"wrong: {plain(wrong[0])}" if wrong else "ok" if checked else "absent"
