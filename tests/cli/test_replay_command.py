"""`postmortem replay` from outside: what it prints, writes and exits with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

from postmortem import cli
from postmortem.change import Change
from postmortem.program import Measured
from postmortem.proof.stored_proofs import load_proofs
from postmortem.replay.spec import ReplaySpec
from postmortem.sources import open_run
from tests.cli.conftest import Call, in_a_process
from tests.replay import ranks_program
from tests.replay.small import STEPS, edited, small_run
from tests.samples import copy_of, skip_on_other_arithmetic

pytestmark = [pytest.mark.bits, pytest.mark.heavy]


@pytest.fixture
def call(outside: Callable[..., Call]) -> Call:
    """Run `postmortem replay …`: (exit code, stdout, stderr)."""
    return outside(cli.main, "postmortem", "replay")


@pytest.fixture
def postmortem(outside: Callable[..., Call]) -> Call:
    """Run `postmortem …`: (exit code, stdout, stderr)."""
    return outside(cli.main, "postmortem")


@pytest.fixture
def probe(outside: Callable[..., Call]) -> Call:
    """Run `postmortem probe …`: (exit code, stdout, stderr)."""
    return outside(cli.main, "postmortem", "probe")


@pytest.fixture(scope="module")
def spike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: the outcome of a replay is kept beside the run."""
    return copy_of("19-spike-001", tmp_path_factory.mktemp("samples") / "19-spike-001")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("small") / "run")


@pytest.mark.processes
def test_defaults_lead_from_a_spike_to_a_run_without_it(spike: Path, tmp_path: Path) -> None:
    code, out, err = in_a_process(tmp_path, "replay", spike, "--until", 330, "--out", tmp_path / "cured")
    assert (code, err) == (0, "")
    skip_on_other_arithmetic(tmp_path / "cured")
    lines = out.splitlines()
    assert lines[0] == "plan    steps [300, 330) of 19-spike-001, from rollback/step-00000300.dcp"
    assert lines[1] == "change  skip batches [312, 313) (suggested for the loss_spike at step 312)"
    assert lines[2] == "bits    as recorded: AVX2, 1 thread"
    assert lines[3].startswith("result  differs from the run from step 312 on, first in its batch: ")
    assert lines[4] == "outcome loss spike at step 312: cured (no incident, excess loss 0 % of R0's)"
    (proof,) = load_proofs(open_run(spike))
    assert [experiment.outcome for experiment in proof.experiments] == ["cured"] and not proof.text
    assert "cured resumed from step 300 of" in out or "b resumed from step 300 of a" in out
    assert lines[-2] == "run     cured"
    assert lines[-1].startswith("next    postmortem prove ")
    loss = open_run(tmp_path / "cured").series("loss")
    assert loss is not None and loss.at(312) is not None and loss.window(300, 330).value.max() < 2


@pytest.mark.processes
def test_a_null_replay_in_a_fresh_process_is_bit_for_bit(spike: Path, tmp_path: Path) -> None:
    words = (spike, "--null", "--from-step", 300, "--until", 320, "--check", "--out", tmp_path / "out")
    code, out, err = in_a_process(tmp_path, "replay", *words)
    assert (code, err) == (0, "")
    skip_on_other_arithmetic(tmp_path / "out")
    assert "result  bit for bit: 20 rows, batch, loss, gradient norm, parameters" in out
    assert "\nidentical " in out


class TestChoices:
    def test_json_is_all_there_is_on_stdout(self, call: Call, tmp_path: Path, small: Path) -> None:
        words = ("--from-step", 4, "--skip", "5:7", "--save-at", "8,10", "--out", tmp_path / "out")
        code, out, err = call(small, *words, "--trust", "--json")
        result = json.loads(out)
        assert code == 0 and result["changes"] == ["skip batches [5, 7)"] and result["until"] == STEPS
        assert err.splitlines()[0].startswith("plan ") and "imports tests.replay.ranks_program:build from " in err
        assert {p.name for p in (tmp_path / "out" / "rollback").iterdir()} >= {"step-00000008.dcp", "step-00000010.dcp"}

    def test_the_place_below_the_run(self, call: Call, tmp_path: Path, small: Path) -> None:
        run = edited(small, tmp_path / "run", lambda manifest: None)
        assert call(run, "--from-step", 4, "--skip", "5:7", "--trust")[0] == 0
        assert (run / "postmortem" / "replays" / "step-4-skip-5-7" / "replayed.json").is_file()
        code, out, _ = call(run, "--from-step", 4, "--skip", "none", "--trust")
        assert code == 0 and "result  bit for bit: 8 rows, batch, loss, gradient norm" in out
        assert "next    postmortem draft " in out, "there is no incident to prove anything of"

    @pytest.mark.parametrize("words", [("run-job",), ("replay", "--order")], ids=["job", "job of an earlier version"])
    def test_a_job(self, postmortem: Call, tmp_path: Path, small: Path, words: tuple[str, ...]) -> None:
        spec = ReplaySpec(str(small), str(tmp_path / "out"), 4, 8, (Change.from_text("lr-scale=0.5"),), reason="R1")
        job = tmp_path / "job.json"
        job.write_text(spec.to_json())
        code, out, _ = postmortem(*words, job, "--trust")
        assert code == 0 and "change  learning rate × 0.5" in out
        assert postmortem(*words, job)[0] == 2
        job.write_text('{"run": 3}')
        code, _, err = postmortem(*words, job, "--trust")
        assert code == 3 and "is not the spec of a replay" in err

    def test_check(self, call: Call, tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        words = (small, "--from-step", 4, "--trust", "--check", "--out", tmp_path / "out")
        assert call(*words, "--null")[0] == 0
        assert call(*words[:-1], tmp_path / "other", "--change", "noise=1")[0] == 0, "a change may change something"
        code, _, err = call(*words, "--change", "noise=1")
        assert code == 2 and "contains another replay" in err, "a finished one is not replaced"
        step = ranks_program.Sharded.step

        def drifting(self: ranks_program.Sharded, batch: ranks_program.Rows) -> Measured:
            measured = step(self, batch)
            return Measured({**measured.metrics, "loss": measured.metrics["loss"] + 1e-9}, measured.batch)

        monkeypatch.setattr(ranks_program.Sharded, "step", drifting)
        code, out, err = call(*words, "--null")
        assert (code, err.count("\n")) == (
            5,
            1,
        ) and "result  differs from the run from step 4 on, first in its loss: " in out
        assert call(*words[:-3], "--null", "--out", tmp_path / "out")[0] == 0, "without --check it is an answer as any"


class TestTrouble:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ((), "name the run to replay: postmortem replay RUN"),
            (("RUN", "--order", "x.json"), "a job says by itself what to replay: postmortem run-job FILE"),
            (("--order", "x.json", "--check"), "a job says by itself what to replay: postmortem run-job FILE"),
            (("RUN", "--null", "--skip", "3:4"), "a null replay changes nothing, and skip=3:4 is a change"),
            (("RUN", "--skip", "4:3"), "[4, 3) contains no batch"),
            (("RUN", "--change", "lr-halve"), "there is no intervention 'lr-halve'"),
            (("RUN", "--save-at", "3,x"), "--save-at '3,x': expected whole numbers"),
            (("RUN", "--from-step", "5"), "the run has no complete checkpoint of step 5; it has those of steps 0"),
            (("RUN", "--from-step", "4", "--until", "4"), "there is no step to drive"),
            (("RUN", "--incident", "3"), "There is no incident 3"),
            (("RUN", "--probe", "5:7"), "--probe is a command now: postmortem probe RUN A:B"),
            (
                ("RUN", "--at-checkpoints", "5"),
                "--at-checkpoints is a command now: postmortem probe RUN A:B --at",
            ),
            (("--list",), "--list is a command now: postmortem interventions"),
        ],
    )
    def test_words_that_cannot_be_meant(self, call: Call, small: Path, words: tuple[str, ...], message: str) -> None:
        code, out, err = call(*(small if word == "RUN" else word for word in words), "--trust")
        assert (code, out) == (2, "") and message in err and err.count("\n") <= 2, err

    def test_no_run(self, call: Call, tmp_path: Path) -> None:
        assert call(tmp_path / "nowhere")[0] == 3

    def test_a_foreign_program_waits_for_trust(self, call: Call, small: Path) -> None:
        code, out, err = call(small, "--from-step", 4)
        assert (code, out) == (2, "") and "which would be imported from" in err and "--trust" in err

    def test_changed_data_exit_with_5(self, call: Call, tmp_path: Path, small: Path) -> None:
        run = edited(small, tmp_path / "run", lambda manifest: manifest.update(config={"data_seed": 1}))
        code, _, err = call(run, "--from-step", 4, "--null", "--trust", "--out", tmp_path / "out")
        assert code == 5 and err.splitlines()[-1].startswith(
            "postmortem: batch 4 is the first that differs from what the run"
        )

    def test_ctrl_c(self, call: Call, tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        step = ranks_program.Sharded.step

        def interrupted(self: ranks_program.Sharded, batch: ranks_program.Rows) -> object:
            if self.updates == 6:
                raise KeyboardInterrupt
            return step(self, batch)

        words = (small, "--from-step", 4, "--null", "--trust", "--check", "--out", tmp_path / "out")
        with monkeypatch.context() as patch:
            patch.setattr(ranks_program.Sharded, "step", interrupted)
            code, _, err = call(*words)
        assert code == 130 and "interrupted. The steps driven so far are in out" in err
        assert open_run(tmp_path / "out").row_steps[-1] == 5
        assert call(*words)[0] == 0

    def test_a_program_that_fails_shows_where_when_asked(
        self, call: Call, tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = edited(small, tmp_path / "run", lambda manifest: manifest.update(config={"fails_at": 6}))
        words = (run, "--from-step", 4, "--null", "--trust", "--out", tmp_path / "out")
        code, _, err = call(*words)
        assert code == 2 and "Traceback" not in err and "POSTMORTEM_DEBUG=1" in err
        monkeypatch.setenv("POSTMORTEM_DEBUG", "1")
        assert "ranks_program.py" in call(*words)[2]


class TestProbe:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("7",), "A:B '7': expected FIRST:LAST"),
            (("7:7",), "[7, 7) contains no batch"),
            (("5:7", "--at", "5"), "no complete checkpoint of step 5"),
            (("5:7", "--at", "x"), "--at 'x': expected whole numbers"),
        ],
    )
    def test_words_that_cannot_be_meant(self, probe: Call, small: Path, words: tuple[str, ...], message: str) -> None:
        code, out, err = probe(small, *words, "--trust")
        assert (code, out) == (2, "") and message in err and err.count("\n") <= 2, err

    def test_the_table_and_the_sentence(self, probe: Call, spike: Path, tmp_path: Path) -> None:
        code, out, err = probe(spike, "311:314", "--at", "200,300", "--out", tmp_path)
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert lines[0].split("  ")[0] == "batch" and "loss at 200" in lines[0] and "grad norm at 300" in lines[0]
        assert [line.split()[0] for line in lines[1:5]] == ["311", "312*", "313", "usual"]
        assert lines[-3].startswith("probe   data: batch 312 is bad in every probed state")
        assert lines[-2].startswith("bits    ")
        assert lines[-1] == "picture 311-314.png"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["311-314.json", "311-314.png"]

    def test_json_writes_nothing(self, probe: Call, small: Path) -> None:
        code, out, _ = probe(small, "5:40", "--trust", "--json")
        assert code == 0 and json.loads(out)["window"] == [5, 40]
        assert not (small / "postmortem" / "probe").exists()

    def test_a_long_window_shows_the_worst(self, probe: Call, tmp_path: Path, small: Path) -> None:
        _, out, _ = probe(small, "5:40", "--trust", "--out", tmp_path)
        assert "24 of 35 batches; the files contain all of them" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--skip", "312-512"), "--skip 312-512: expected --skip A:B[,C:D]"),
        (("--skip", "312-512"), "batches 312 to 511 are 312:512"),
        (("--skip", "200", "--until", "340"), "steps [300, 340), which consume batches [300, 340)"),
        (("--skip", "5000:5200", "--until", "340"), "no batch of the change is among them"),
        (("--change", "mask=200"), "mask the rare tokens of batches [200, 201): changes nothing in steps"),
    ],
)
def test_a_change_that_does_nothing_ends_before_anything_is_driven(
    call: Call, spike: Path, words: tuple[str, ...], said: str
) -> None:
    code, out, err = call(spike, *words)
    assert (code, out) == (2, "") and said in err, err
