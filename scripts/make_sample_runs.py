"""Train the sample runs again, or check that this gives the same runs bit for bit (`--check`).

    python scripts/make_sample_runs.py [ID …]            write sample_runs/ID (all of them without ID)
    python scripts/make_sample_runs.py --check [ID …]    exit 1 if a run that is trained again differs

Both compute as the committed runs did, if this machine can. If it cannot, the check trains each run twice and compares
the two. Clocks and the environment are left out.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from postmortem.arithmetic import arithmetic_of
from postmortem.arithmetic import describe_differences as describe_other_arithmetic
from postmortem.lab import make_run
from postmortem.lab.run_equality import differences
from postmortem.run.replayed import RESULT_FILE, SPEC_FILE
from postmortem.sources import open_run

ROOT = Path(__file__).resolve().parent.parent / "sample_runs"


@dataclass(frozen=True)
class Sample:
    """One sample run: the fault and seed for the lab, and the steps whose checkpoints are kept."""

    fault: str
    seed: int
    at: int | None
    keep: tuple[int, ...]


@dataclass(frozen=True)
class Recovered:
    """A sample run that continues `parent`: that run is stopped after `stopped_at` steps, rolled back to `from_step`,
    and trained to the end without the batches of `skip`.
    """

    parent: str
    stopped_at: int
    from_step: int
    skip: tuple[int, int]
    until: int
    keep: tuple[int, ...]


SAMPLES = {
    "19-spike-001": Sample("long_tail_tokens", 42, 312, (200, 300, 400)),
    "19-clean-001": Sample("none", 42, None, (1000,)),
    "19-spike-001-recovered": Recovered("19-spike-001", 362, 300, (312, 512), 2000, (400,)),
    "clean-001": Sample("none", 7, None, (1000,)),
    "20-run-002": Sample("lr_discontinuity", 11, 700, (600, 700, 800)),
    "20-run-003": Sample("optimizer_reset", 5, 540, (500, 540, 600)),
    "20-run-004": Sample("nan_propagation", 8, 905, (800, 900, 1000)),
}


def make(name: str, out: Path, truth: Path) -> Path:
    """Train the sample run `name` into `out`, and write the truth about its fault."""
    out.parent.mkdir(parents=True, exist_ok=True)
    truth.parent.mkdir(parents=True, exist_ok=True)
    sample = SAMPLES[name]
    if isinstance(sample, Recovered):
        return recover(sample, out, truth)
    return make_run(
        out,
        fault=sample.fault,
        seed=sample.seed,
        at=sample.at,
        keep_checkpoints=sample.keep,
        run_id=name,
        truth=truth,
    )


def recover(sample: Recovered, out: Path, truth: Path) -> Path:
    """Train the parent until it is stopped, and replay it into `out`."""
    parent = SAMPLES[sample.parent]
    assert isinstance(parent, Sample)
    with tempfile.TemporaryDirectory() as scratch:
        run = make_run(
            Path(scratch) / sample.parent,
            fault=parent.fault,
            seed=parent.seed,
            at=parent.at,
            until=sample.stopped_at,
            keep_checkpoints=(sample.from_step,),
            run_id=sample.parent,
            truth=truth,
        )
        shutil.rmtree(out, ignore_errors=True)
        _replay(sample, run, out)
    return out


def _replay(sample: Recovered, run: Path, out: Path) -> None:
    from postmortem.change import Change
    from postmortem.record.writer import update_manifest
    from postmortem.replay.run_replay import replay
    from postmortem.replay.spec import ReplaySpec

    spec = ReplaySpec(
        run=str(run),
        out=str(out),
        from_step=sample.from_step,
        until=sample.until,
        changes=(Change("skip", (sample.skip,)),),
        save_at=sample.keep,
        reason="loss_spike_sustained",
    )
    replay(spec, provenance=False)
    # The stopped run and its replay stand for one run that was rolled back: the steps before were its own work.
    update_manifest(out, lambda old: {**old, "lineage": {**old["lineage"], "inherited_attempts": 0}})
    (out / SPEC_FILE).unlink()  # this file and the next name folders of this machine
    (out / RESULT_FILE).unlink()


def check(name: str, scratch: Path) -> list[str]:
    """The differences between the committed run `name` and a new training of it."""
    from postmortem.record.provenance import environment

    again = make(name, scratch / "a" / name, scratch / f"{name}-a.truth.json")
    committed = ROOT / name
    other = describe_other_arithmetic(open_run(committed).manifest.environment, environment())
    found = differences(committed, again)
    if not (found and other):
        return found
    print(f"{name}: the arithmetic differs ({'; '.join(other)}); comparing two new trainings instead")
    return differences(again, make(name, scratch / "b" / name, scratch / f"{name}-b.truth.json"))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("names", nargs="*", metavar="ID", help=f"of {', '.join(SAMPLES)}")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - SAMPLES.keys()
    if unknown:
        parser.error(f"no sample run is called {', '.join(sorted(unknown))}")
    committed = next((ROOT / name for name in SAMPLES if (ROOT / name / "run.json").is_file()), None)
    if committed is not None:
        arithmetic_of(open_run(committed).manifest.environment).adopt()
    failed = False
    for name in arguments.names or SAMPLES:
        if not arguments.check:
            print(make(name, ROOT / name, ROOT / "truth" / f"{name}.json"))
            continue
        with tempfile.TemporaryDirectory() as scratch:
            lines = check(name, Path(scratch))
        print(f"{name}: {'; '.join(lines) if lines else 'the same, bit for bit'}")
        failed = failed or bool(lines)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
