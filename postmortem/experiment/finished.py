"""The finished replays of an experiment: those that lie in its folder already, and those that were driven elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from postmortem.atomic import copy_file, make_folder, put_folder, real_path, remove_file, saving, staged
from postmortem.experiment.target import ExperimentTarget
from postmortem.proof.stored_proofs import Proof
from postmortem.replay.branch import REPLAYS, replayable_root
from postmortem.run.replayed import RESULT_FILE, SPEC_FILE

_EVIDENCE = ("metrics", "batches", "journal.jsonl", "run.json", SPEC_FILE, RESULT_FILE)


def finished_replays(target: ExperimentTarget) -> list[Path]:
    """The results in the folder of an experiment, sorted: `prove` takes them over."""
    return sorted(target.folder.glob(f"*/{RESULT_FILE}"))


def discard_finished(target: ExperimentTarget) -> None:
    """Remove those results, so that all replays are driven again. Raises CannotWrite."""
    root = replayable_root(target.run)
    for file in finished_replays(target):
        with saving(file, within=root, option=""):
            remove_file(file)


def bring_in(target: ExperimentTarget, proof: Proof) -> Proof:
    """`proof` with its replays in the run, where every later draft can check them: the rows of those that were driven
    elsewhere are copied, without their checkpoints. Raises CannotWrite."""
    root = replayable_root(target.run)
    if real_path(target.folder).is_relative_to(real_path(root)):
        return proof
    folder = REPLAYS / f"collected-{target.incident.onset_step}"
    experiments = [replace(e, run=(folder / Path(e.run).name).as_posix()) for e in proof.experiments]
    with saving(root / folder, within=root, option=""):
        make_folder((root / folder).parent)
        with staged(root / folder) as stage:
            for experiment in experiments:
                source = target.folder / Path(experiment.run).name
                if (source / RESULT_FILE).is_file():
                    _copy_evidence(source, stage / source.name)
            put_folder(stage, root / folder)
    return replace(proof, experiments=tuple(experiments))


def _copy_evidence(source: Path, destination: Path) -> None:
    """Copy what a draft checks of a replay: no checkpoints, and no links."""
    for file in (file for name in _EVIDENCE for file in (source / name, *(source / name).glob("*"))):
        if file.is_file() and not file.is_symlink():
            target = destination / file.relative_to(source)
            make_folder(target.parent)
            copy_file(file, target)
