"""What replays have shown of a run's incidents, kept beside its report, and taken up by every draft from then on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from postmortem.atomic import write_text
from postmortem.causes import causes
from postmortem.change import Change
from postmortem.diagnosis import Experiment, Verdict
from postmortem.errors import UnreadableInput
from postmortem.incident import IncidentKey
from postmortem.jsonio import build_from, strict_json
from postmortem.run import Run
from postmortem.run.manifest import inside, read_mapping
from postmortem.text import plain

FILE = "postmortem/proof.json"


@dataclass(frozen=True)
class Proof:
    """The experiments on one incident. `verdict` is "undecided" and `text` empty where only single replays were driven;
    `cause` is what is confirmed, "" for none."""

    incident: IncidentKey
    verdict: Verdict
    cause: str
    text: str
    experiments: tuple[Experiment, ...]

    def __post_init__(self) -> None:
        if self.verdict == "no_incident" or (self.verdict == "confirmed" and not self.cause):
            raise ValueError(f"the verdict {self.verdict} of {self.cause or 'no cause'}")
        if self.cause and self.verdict not in ("confirmed", "not_reproducible"):
            raise ValueError(f"the cause {self.cause} of a verdict that names none")
        if self.cause and all(one.slug != self.cause for one in causes()):
            raise ValueError(f"the cause {self.cause}, which is not known here")


@dataclass(frozen=True)
class _Book:
    proofs: tuple[Proof, ...]


def load_proofs(run: Run) -> tuple[Proof, ...]:
    """The proofs that lie with a run; () where there are none.

    Raises:
        UnreadableInput: the file holds something else.
    """
    if run.root is None:
        return ()
    file = inside(run.root, FILE, plain(run.root, 1000))
    if not file.is_file():
        return ()
    try:
        return tuple(map(_harmless, build_from(_Book, read_mapping(file)).proofs))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise UnreadableInput(
            f"is no record of replays ({plain(error, 120)}).", file=plain(file, 1000), hint="Remove it, or prove again."
        ) from error


def _harmless(proof: Proof) -> Proof:
    """A proof whose texts, which may be a stranger's, do nothing where they are shown."""
    experiments = tuple(
        dataclasses.replace(
            one,
            changes=tuple(Change.from_text(plain(change, 10**6)) for change in one.changes),
            text=plain(one.text, 1000),
            tests=tuple(map(plain, one.tests)),
            run=plain(one.run, 1000),
        )
        for one in proof.experiments
    )
    return dataclasses.replace(proof, text=plain(proof.text, 4000), experiments=experiments)


def kept(run: Run) -> tuple[Proof, ...]:
    """The same for whoever stores another: () where the file is damaged, as every draft says; it is replaced."""
    try:
        return load_proofs(run)
    except UnreadableInput:
        return ()


def store(root: Path, proof: Proof, earlier: Sequence[Proof]) -> Path:
    """Keep `proof` beside the report, in the place of an earlier one on the same incident."""
    file = inside(root, FILE, plain(root, 1000))
    file.parent.mkdir(exist_ok=True)
    others = [one for one in earlier if one.incident != proof.incident]
    known = {one.run for one in proof.experiments}
    single = [e for one in earlier if one.incident == proof.incident for e in one.experiments if e.role == "replay"]
    proof = dataclasses.replace(
        proof, experiments=(*proof.experiments, *(one for one in single if one.run not in known))
    )
    write_text(file, strict_json(_Book((*others, proof))))
    return file


def with_experiment(proof: Proof | None, incident: IncidentKey, experiment: Experiment) -> Proof:
    """`proof`, or a new one on that incident, with one more replay in it; a replay in the same place is replaced."""
    base = proof or Proof(incident, "undecided", "", "", ())
    others = tuple(one for one in base.experiments if one.run != experiment.run)
    return dataclasses.replace(base, experiments=(*others, experiment))
