"""Commands that drive a run take its arithmetic by themselves, whatever the environment says; where they cannot, they
say so and use a band.

The runs are trained here, in processes with other kernels than those of the commands: it holds on every x86 machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from shutil import copytree

import pytest

torch = pytest.importorskip("torch")

from postmortem.arithmetic import KERNELS, _processor_supports
from postmortem.sources import open_run
from tests.cli.conftest import in_a_process
from tests.replay.small import STEPS, edited
from tests.replays import AT
from tests.samples import ROOT

pytestmark = [
    pytest.mark.bits,
    pytest.mark.processes,
    pytest.mark.skipif(not _processor_supports("AVX2"), reason="this processor has one kind of kernels"),
]
THEN = {"ATEN_CPU_CAPABILITY": "default"}
NOW = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "2"}
SAID = "bits    as recorded: DEFAULT, 1 thread"


def recorded(run: Path, *words: str) -> Path:
    """The run that `python words…`, given its folder, records on the plainest kernels."""
    environment = {name: value for name, value in os.environ.items() if name not in KERNELS}
    environment |= {**THEN, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    places = (str(run) if word == "RUN" else word for word in words)
    python(*places, here=ROOT, environment=environment)
    return run


def python(*words: str, here: Path, environment: Mapping[str, str]) -> str:
    """What `python words…` prints; it has to go well."""
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 steps of the lab's program."""
    code = "import sys, pathlib; from postmortem.lab import make_run\n"
    code += "make_run(pathlib.Path(sys.argv[1]), steps=40, checkpoint_every=20)"
    return recorded(tmp_path_factory.mktemp("lab") / "run", "-c", code, "RUN")


@pytest.fixture(scope="module")
def _spiked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    code = "import sys, pathlib, torch; from tests.replay.rogue_program import record\ntorch.set_num_threads(1)\n"
    code += f"record(pathlib.Path(sys.argv[1]), {{'rogue': [{AT}], 'rows': [2, 5]}})"
    return recorded(tmp_path_factory.mktemp("spiked") / "run", "-c", code, "RUN")


@pytest.fixture
def spiked(_spiked: Path, tmp_path: Path) -> Path:
    """A run with a spike that a batch made, see `rogue_run`."""
    return Path(copytree(_spiked, tmp_path / "run"))


def result_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "replayed.json").read_text())


class TestReplay:
    def test_it_takes_the_run_s(self, lab: Path, tmp_path: Path) -> None:
        words = ("replay", lab, "--null", "--from-step", 20, "--until", 40, "--check", "--out", "out")
        code, out, err = in_a_process(tmp_path, *words, **NOW)
        assert (code, err) == (0, "") and SAID in out.splitlines()
        assert "result  bit for bit: 20 rows, batch, loss, gradient norm, parameters" in out
        told = result_of(tmp_path / "out")
        assert told["arithmetic"] == [] and "DEFAULT, 1 thread, fingerprint " in str(told["computed_with"])
        environment, before = (open_run(run).manifest.environment for run in (tmp_path / "out", lab))
        assert all(environment[key] == before[key] for key in ("cpu_capability", "threads", "fingerprint", "kernels"))

    def test_native_is_this_machine_s_own_and_parts(self, lab: Path, tmp_path: Path) -> None:
        words = ("replay", lab, "--null", "--from-step", 20, "--until", 40, "--check", "--out", "out")
        code, out, _ = in_a_process(tmp_path, *words, "--arithmetic", "native", **NOW)
        assert code == 0, "bits could not be expected"
        assert "bits    this machine's own, as asked for" in out.splitlines()
        assert "result  other arithmetic: kernels DEFAULT then, AVX2 now: bits cannot be expected; differs from" in out
        assert json.loads((tmp_path / "out" / "replay.json").read_text())["arithmetic"] == "native"

    def test_a_blas_that_chose_otherwise_is_told_by_the_fingerprint_alone(self, lab: Path, tmp_path: Path) -> None:
        if not torch.backends.mkl.is_available():
            pytest.skip("this torch has no MKL")
        words = ("replay", lab, "--null", "--from-step", 20, "--until", 40, "--check", "--out", "out")
        native = {**THEN, "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "1"}
        code, out, _ = in_a_process(tmp_path, *words, "--arithmetic", "native", **native)
        assert code == 0 and "result  other arithmetic: fingerprint of its kernels " in out

    def test_a_probe(self, lab: Path, tmp_path: Path) -> None:
        words = ("probe", lab, "20:21", "--at", "20", "--json", "--out", "out")
        code, out, err = in_a_process(tmp_path, *words, **NOW)
        (state,), run = json.loads(out)["states"], open_run(lab)
        assert code == 0 and SAID in err.splitlines() and "DEFAULT, 1 thread" in json.loads(out)["computed_with"]
        for name in ("loss", "grad_norm"):
            column = run.series(name)
            assert column is not None and state[name] == [column.at(20)]

    def test_two_ranks(self, tmp_path: Path) -> None:
        launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
        run = recorded(tmp_path / "run", *launch, "tests.replay.ranks_program", "RUN", str(STEPS))
        words = ("postmortem", "replay", str(run), "--from-step", "4", "--null", "--check", "--trust", "--out", "out")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **NOW}
        out = python(*launch, *words, here=tmp_path, environment=environment)
        assert out.count(SAID) == 1 and "result  bit for bit: " in out
        assert "DEFAULT, 1 thread" in str(result_of(tmp_path / "out")["computed_with"])


class TestExperiments:
    def test_prove_its_arms_and_verify(self, spiked: Path, tmp_path: Path) -> None:
        code, out, err = in_a_process(tmp_path, "prove", "run", "--trust", **NOW)
        assert code == 0 and SAID in out.splitlines(), (out, err)
        assert "R0      nothing changed: the incident appears again, bit for bit" in out
        assert "verdict confirmed: long_tail_tokens" in out
        arms = sorted((spiked / "postmortem" / "replays" / "prove-110").iterdir())
        assert len(arms) > 5
        for arm in arms:
            told = result_of(arm)
            assert told["arithmetic"] == [] and "DEFAULT, 1 thread" in str(told["computed_with"]), arm.name
        code, out, err = in_a_process(tmp_path, "verify", "run/postmortem/diagnosis.json", "--trust", **NOW)
        assert code == 0 and SAID in out.splitlines() and "FAIL" not in out, (out, err)
        told = result_of(spiked / "postmortem" / "replays" / "verify-110" / "remedy")
        assert told["arithmetic"] == [] and "DEFAULT, 1 thread" in str(told["computed_with"])

    def test_bisect(self, spiked: Path, tmp_path: Path) -> None:
        code, out, err = in_a_process(tmp_path, "bisect", "run", "--trust", "--window", "109:111", "--no-rows", **NOW)
        assert code == 0 and SAID in out.splitlines(), (out, err)
        assert f"found   batch {AT} caused it" in out and "bit for bit" in out

    def test_what_was_driven_natively_is_not_taken_for_it(self, spiked: Path, tmp_path: Path) -> None:
        words = ("bisect", "run", "--trust", "--window", "110:111", "--no-rows")
        code, out, _ = in_a_process(tmp_path, *words, "--arithmetic", "native", **NOW)
        assert code == 0 and out.endswith("--trust --arithmetic native\n"), "a further command does as this one did"
        assert "AVX2" in str(result_of(spiked / "postmortem" / "replays" / "bisect-110" / "R0")["computed_with"])
        code, out, _ = in_a_process(tmp_path, *words, **NOW)
        assert code == 0 and "DEFAULT" in str(
            result_of(spiked / "postmortem" / "replays" / "bisect-110" / "R0")["computed_with"]
        )


class TestNoMachineHasIt:
    """A manifest that tells of kernels and a torch that there are nowhere."""

    def altered(self, run: Path, out: Path) -> Path:
        nowhere = {"cpu_capability": "AVX1024", "torch": "1.0.0", "fingerprint": "0" * 16, "kernels": {}}
        return edited(run, out, lambda manifest: manifest["environment"].update(nowhere))

    SAYS = (
        "bits    as recorded where this machine can (1 thread), but not "
        f"torch 1.0.0 ({metadata.version('torch')} here), "
        "AVX1024 (this processor has no such kernels): bits cannot be expected"
    )

    BAND_NOTE = "a measured band is used"

    def test_replay_says_it_and_no_bits_are_asked_for(self, lab: Path, tmp_path: Path) -> None:
        self.altered(lab, tmp_path / "run")
        words = ("replay", "run", "--null", "--from-step", 20, "--until", 40, "--check", "--out", "out")
        code, out, _ = in_a_process(tmp_path, *words, **NOW)
        assert code == 0 and self.SAYS in out.splitlines()
        assert "result  other arithmetic: torch 1.0.0 then" in out and "kernels AVX1024 then" in out

    def test_prove_and_verify_use_a_band_and_say_it(self, spiked: Path, tmp_path: Path) -> None:
        run = self.altered(spiked, tmp_path / "other" / "run")
        code, out, err = in_a_process(run.parent, "prove", "run", "--trust", **NOW)
        assert code == 0 and self.SAYS in out.splitlines(), err
        assert "though not bit for bit (torch 1.0.0 then" in out and self.BAND_NOTE in out
        assert "verdict confirmed: long_tail_tokens" in out
        code, out, err = in_a_process(run.parent, "verify", "run/postmortem/diagnosis.json", "--trust", **NOW)
        assert code == 0 and self.BAND_NOTE in out and "FAIL" not in out, (out, err)
        assert (run / "postmortem" / "replays" / "verify-110" / "noise-2" / "replayed.json").is_file()

    def test_so_does_bisect(self, spiked: Path, tmp_path: Path) -> None:
        run = self.altered(spiked, tmp_path / "other" / "run")
        words = ("bisect", "run", "--trust", "--window", "110:111", "--no-rows")
        code, out, err = in_a_process(run.parent, *words, **NOW)
        assert code == 0 and self.BAND_NOTE in out and f"found   batch {AT} caused it" in out, (out, err)
        assert (run / "postmortem" / "replays" / "bisect-110" / "noise-2" / "replayed.json").is_file()
