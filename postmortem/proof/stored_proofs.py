"""Stores what replays proved about incidents in proof.json, beside the report; every later draft checks and uses it."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from postmortem.atomic import make_folder, saving, write_text
from postmortem.causes import causes
from postmortem.change import Change
from postmortem.diagnosis import OF_RUNS, Experiment, Verdict
from postmortem.errors import UnreadableInput
from postmortem.incident import IncidentKey
from postmortem.jsonio import read_record, strict_json
from postmortem.run import Run
from postmortem.run.manifest import inside
from postmortem.text import plain

FILE = "postmortem/proof.json"
_DATE = re.compile(r"(\d{4}-\d{2}-\d{2})?")


@dataclass(frozen=True)
class Proof:
    """The experiments on one incident. `verdict` is "undecided" and `text` is "" where there are only single replays;
    `cause` is the confirmed cause, or "". `date`: the day on which it was proven (UTC), "" in files of earlier
    versions."""

    incident: IncidentKey
    verdict: Verdict
    cause: str
    text: str
    experiments: tuple[Experiment, ...]
    date: str = ""

    def __post_init__(self) -> None:
        if not _DATE.fullmatch(self.date):
            raise ValueError(f"the date {self.date!r}")
        if self.verdict in OF_RUNS or (self.verdict == "confirmed" and not self.cause):
            raise ValueError(f"the verdict {self.verdict} of {self.cause or 'no cause'}")
        if self.cause and self.verdict not in ("confirmed", "not_reproducible"):
            raise ValueError(f"the cause {self.cause} of a verdict that names none")
        if self.cause and all(cause.slug != self.cause for cause in causes()):
            raise ValueError(f"the cause {self.cause}, which is not known here")


@dataclass(frozen=True)
class _ProofFile:
    proofs: tuple[Proof, ...]


def proof_hash(proof: Proof) -> str:
    """Twelve hexadecimal digits of what was proven by which outcomes, so that two people can compare two files. Days,
    seconds and words are left out."""
    arms = [
        [e.role, [str(change) for change in e.changes], e.outcome, e.excess, e.from_step, e.steps]
        for e in proof.experiments
        if e.role != "replay"
    ]
    text = strict_json([proof.incident, proof.verdict, proof.cause, arms])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def dated(proof: Proof) -> Proof:
    """The same proof, made today."""
    return dataclasses.replace(proof, date=datetime.now(UTC).date().isoformat())


def load_proofs(run: Run) -> tuple[Proof, ...]:
    """The proofs stored with a run; () where there are none.

    Raises:
        UnreadableInput: the file contains something else.
    """
    if run.root is None:
        return ()
    file = inside(run.root, FILE, plain(run.root, 1000))
    if not file.is_file():
        return ()
    hint = "Remove it, or prove again."
    proofs = read_record(_ProofFile, file, "a file of proofs", hint=hint).proofs
    try:
        return tuple(map(_harmless, proofs))
    except ValueError as error:
        raise UnreadableInput(f"is not a file of proofs ({plain(error, 120)}).", file=file, hint=hint) from error


def _harmless(proof: Proof) -> Proof:
    """The same proof with harmless texts: the file may come from a stranger."""
    experiments = tuple(
        dataclasses.replace(
            experiment,
            changes=tuple(Change.from_text(plain(change, 10**6)) for change in experiment.changes),
            text=plain(experiment.text, 1000),
            tests=tuple(map(plain, experiment.tests)),
            run=plain(experiment.run, 1000),
        )
        for experiment in proof.experiments
    )
    return dataclasses.replace(proof, text=plain(proof.text, 4000), experiments=experiments)


def earlier_proofs(run: Run) -> tuple[Proof, ...]:
    """`load_proofs` for a caller that stores a proof: () where the file is damaged, because it will be replaced."""
    try:
        return load_proofs(run)
    except UnreadableInput:
        return ()


def store_proof(root: Path, proof: Proof, earlier: Sequence[Proof]) -> Path:
    """Write `proof` beside the report, instead of an earlier proof of the same incident; the path of the file.

    Single replays of the earlier proof are kept. Raises CannotWrite.
    """
    file = root / FILE
    unchanged = [stored for stored in earlier if stored.incident != proof.incident]
    replaced = [stored for stored in earlier if stored.incident == proof.incident]
    runs = {experiment.run for experiment in proof.experiments}
    single = [e for stored in replaced for e in stored.experiments if e.role == "replay" and e.run not in runs]
    proof = dataclasses.replace(proof, experiments=(*proof.experiments, *single))
    with saving(file, within=root, option=""):
        make_folder(file.parent)
        write_text(file, strict_json(_ProofFile((*unchanged, proof))))
    return file


def add_experiment(proof: Proof | None, incident: IncidentKey, experiment: Experiment) -> Proof:
    """`proof`, or a new proof of that incident, with one more replay; it replaces a replay of the same run folder."""
    base = proof or Proof(incident, "undecided", "", "", ())
    experiments = tuple(earlier for earlier in base.experiments if earlier.run != experiment.run)
    return dataclasses.replace(base, experiments=(*experiments, experiment))
