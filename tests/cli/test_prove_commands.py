"""`postmortem prove`, `bisect` and `verify` from outside: what they print, write and exit with."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from shutil import copytree
from typing import Any

import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch")

from postmortem import cli
from postmortem.proof.stored_proofs import FILE
from postmortem.sources import open_run
from tests.cli.conftest import Call, in_a_process
from tests.makers import healthy, healthy_batches, worked_example, write_run
from tests.replay.rogue_program import record
from tests.replay.small import edited
from tests.replays import AT, Driver
from tests.samples import copy_of, sample

pytestmark = pytest.mark.heavy


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Arms are driven in this process."""
    replays = Driver()
    monkeypatch.setattr("postmortem.experiment.target.run_replays", replays)
    return replays


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("recorded") / "run", {"rogue": [AT], "rows": [2, 5]})


@pytest.fixture(scope="module")
def proved(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(a run whose cause was proved, what the command printed)."""
    run = Path(copytree(recorded, tmp_path_factory.mktemp("proved") / "run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("postmortem.experiment.target.run_replays", Driver())
        patch.setattr(sys, "argv", ["postmortem", "prove", str(run), "--trust", "--json", "--check"])
        from io import StringIO

        patch.setattr(sys, "stdout", out := StringIO())
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    return run, out.getvalue()


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Path:
    return Path(copytree(recorded, tmp_path / "run"))


@pytest.fixture
def proved_run(proved: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(copytree(proved[0], tmp_path / "run"))


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def key_of(run: Path) -> str:
    return strict((run / "postmortem/replays/prove-110/R0/replay.json").read_text())["key"]


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}


class TestProve:
    def test_a_dry_run_prints_plan_and_cost_and_does_nothing(self, call: Call, driver: Driver, run: Path) -> None:
        before = files(run)
        code, out, err = call("prove", "run", "--trust", "--dry-run")
        assert code == 0 and files(run) == before and not driver.driven
        assert err.startswith("imports tests.replay.rogue_program:build from ")
        labels = [line.split()[0] for line in out.splitlines() if line]
        assert labels == ["about", "bits", "R0", "R1", "R2", "R3", "cost"]
        assert "about   loss spike at step 110, replayed from the checkpoint at step 100 to step " in out
        assert "R2      3 × skip batches [109, 110); skip batches [108, 109); last-bit noise" in out
        assert "R3      2 × replace batches [110, 111) by others; move batches [110, 111) to 130" in out
        code, out, err = call("prove", "run", "--trust", "--dry-run", "--json")
        result = strict(out)
        assert "\nbits    as recorded: " in err
        assert result["replays"] == sum(count for _, count, _ in result["lines"]) and result["steps"] > 400

    def test_json_is_strict_and_alone(self, proved: tuple[Path, str]) -> None:
        result = strict(proved[1])
        assert (result["verdict"], result["cause"]) == ("confirmed", "long_tail_tokens")
        assert result["replays"] == len(result["experiments"]) and result["steps"] > 300
        assert result["incident"]["kind"] == "loss_spike"
        assert ["mask=110:111"] in [experiment["changes"] for experiment in result["experiments"]]

    def test_the_draft_says_it_from_then_on(self, call: Call, proved_run: Path) -> None:
        report = (proved_run / "postmortem" / "report.md").read_text()
        assert "**Verdict: confirmed**" in report and "Shown by replays: The null replay shows it again" in report
        assert "| R1     | mask the rare tokens of batches" in report
        (proved_run / "postmortem" / "report.md").unlink()
        code, out, _ = call("draft", "run")
        assert code == 0 and "confirmed" in out
        again = (proved_run / "postmortem" / "report.md").read_text()
        assert "**Verdict: confirmed**" in again and "| R3     | move batches" in again

    def test_the_line_in_the_notebook_follows_the_verdict(
        self, call: Call, driver: Driver, run: Path, proved: tuple[Path, str], tmp_path: Path
    ) -> None:
        book = tmp_path / "lessons.md"
        assert call("draft", "run", "--undecided")[0] == 0
        assert "## Confirmed" not in book.read_text("utf-8") and "- **Step 110, " in book.read_text("utf-8")
        copytree(proved[0] / "postmortem" / "replays", run / "postmortem" / "replays")
        other = tmp_path / "other.md"
        assert call("prove", "run", "--trust", "--json", "--lessons", other)[0] == 0
        code, out, _ = call("prove", "run", "--trust")
        assert code == 0 and "\nlesson  lessons.md\n" in out and not driver.driven
        for text in (book.read_text("utf-8"), other.read_text("utf-8")):
            assert text.startswith("# Lessons\n\n## Confirmed\n\n### run") and "Suspected" not in text
            assert text.count("- **Step 110, confirmed.** ") == text.count("- **Step 110, ") == 1
            assert "([report](run/postmortem/report.md)) <!-- " in text
        assert "lesson " not in call("prove", "run", "--trust")[1]
        assert "lesson " not in call("draft", "run")[1]

    def test_a_notebook_that_cannot_be_written_stops_before_anything_is_driven(
        self, call: Call, driver: Driver, run: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "lessons.md").mkdir()
        code, _, err = call("prove", "run", "--trust")
        assert code == 2 and "lessons.md: is a directory" in err and not driver.driven

    def test_what_is_printed_fits_eighty_columns(
        self, call: Call, driver: Driver, proved_run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("postmortem.cli._output.text_width", lambda stream: 80)
        code, out, err = call("prove", "run", "--trust")
        assert code == 0 and not driver.driven, "all of it was done before"
        assert max(map(len, (out + err).splitlines())) <= 80
        text = " ".join(out.split())
        assert "R0 nothing changed: the incident appears again, bit for bit" in text
        assert "verdict confirmed: long_tail_tokens" in text and "report run/postmortem/report.md" in text
        assert text.endswith("next postmortem verify run/postmortem/diagnosis.json --trust")

    def test_check_says_no_where_nothing_is_confirmed(self, call: Call, driver: Driver, tmp_path: Path) -> None:
        from tests.replay.rogue_program import misreport

        record(tmp_path / "run", {}, rewrite=misreport)
        code, out, _ = call("prove", "run", "--trust", "--check")
        assert code == 1 and "verdict not_reproducible: logging_artifact" in out
        assert call("prove", "run", "--trust")[0] == 0
        code, out, err = call("verify", "run/postmortem/diagnosis.json", "--trust")
        assert (code, out) == (6, "") and "so there is nothing to verify" in err, "the run is fine, its log is not"

    def test_finished_replays_are_taken_over_and_named_or_driven_afresh(
        self, call: Call, driver: Driver, proved_run: Path
    ) -> None:
        """Those of a stranger's run may be forged: here R0 says that it computed something else."""
        forged = proved_run / "postmortem/replays/prove-110/R0/replayed.json"
        forged.write_text(forged.read_text().replace('"state": "', '"state": "forged-'))
        code, out, _ = call("prove", "run", "--trust")
        assert code == 0 and not driver.driven and "reused  8 finished replays; --fresh drives them again" in out
        code, out, _ = call("prove", "run", "--trust", "--fresh", "--check")
        assert code == 0 and len(driver.driven) == 8 and "reused" not in out and "forged" not in forged.read_text()

    def test_a_proof_that_does_not_hold_is_not_confirmed_by_the_command_either(
        self, call: Call, driver: Driver, proved_run: Path
    ) -> None:
        """The rows of a finished replay that it takes over are not those of its run."""
        part = min((proved_run / "metrics").glob("*.parquet"))
        table = pq.read_table(part)
        part.unlink()
        losses = [
            loss + 0.25 if step == 50 else loss
            for step, loss in zip(*table.select(["step", "loss"]).to_pydict().values(), strict=True)
        ]
        pq.write_table(table.set_column(table.schema.get_field_index("loss"), "loss", [losses]), part)
        with pytest.MonkeyPatch.context() as patch:  # the forger knows the key
            patch.setattr("postmortem.experiment.target._result_key", lambda *_: key_of(proved_run))
            code, out, _ = call("prove", "run", "--trust", "--check")
        assert code == 1 and not driver.driven and "verdict confirmed" in out
        assert "note    the draft says supported: as proven on 20" in out and "loss at step 50" in out

    def test_a_report_from_a_file_says_that_nothing_was_checked(self, call: Call, proved_run: Path) -> None:
        code, out, err = call("report", "run/postmortem/diagnosis.json")
        assert code == 0 and "**Verdict: confirmed**" in out
        assert err == "note    what replays showed is as the file says; `postmortem draft RUN` checks it\n"

    def test_a_damaged_record_of_replays_is_replaced(self, call: Call, driver: Driver, proved_run: Path) -> None:
        (proved_run / FILE).write_text("{")
        assert "proof.json" in call("draft", "run", "--json")[1]
        assert call("prove", "run", "--trust", "--check")[0] == 0
        assert strict((proved_run / FILE).read_text())["proofs"][0]["cause"] == "long_tail_tokens"

    def test_ctrl_c_is_one_line_and_the_same_command_goes_on(
        self, call: Call, driver: Driver, run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("postmortem.proof.decision.judge_replay", interrupted)
            code, _, err = call("prove", "run", "--trust")
        assert code == 130 and err.splitlines()[-1].startswith("postmortem: interrupted. The same command continues")
        assert not (run / FILE).exists()
        before = set(driver.driven)
        assert call("prove", "run", "--trust", "--check")[0] == 0 and len(driver.driven) == len(set(driver.driven))
        assert before < set(driver.driven)

    def test_a_full_disk_at_the_very_end_is_one_message(
        self, call: Call, driver: Driver, proved_run: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(path: Path, text: str) -> None:
            raise OSError(28, "No space left on device", str(path))

        monkeypatch.setattr("postmortem.proof.stored_proofs.write_text", full)
        code, _, err = call("prove", "run", "--trust")
        assert code == 4 and "No space left on device" in err and err.count("postmortem: ") == 1

    def test_export_and_collect(self, call: Call, driver: Driver, run: Path, tmp_path: Path) -> None:
        code, out, _ = call("prove", "run", "--trust", "--export", "jobs")
        assert code == 0 and not driver.driven and not (run / "postmortem").exists()
        assert "next    postmortem prove run --collect jobs" in out
        code, _, err = call("prove", "run", "--trust", "--collect", "jobs")
        assert code == 2 and "no result was brought back to jobs/R0" in err
        for job in ("R0", "R2-skip-109-110"):
            assert call("run-job", f"jobs/{job}.json", "--trust", "--json")[0] == 0
        code, out, _ = call("prove", "run", "--trust", "--collect", "jobs")
        assert code == 0 and "verdict undecided" in out and "R0      nothing changed: the incident appears again" in out
        shutil.rmtree(tmp_path / "jobs")
        drafted = strict(call("draft", "run", "--json")[1])
        assert drafted["verdict"] == "undecided", "its replays lie in the run now"
        driven = [one for one in drafted["incidents"][0]["experiments"] if one["outcome"]]
        assert [one["run"] for one in driven] == [
            f"postmortem/replays/collected-110/{name}" for name in ("R0", "R2-skip-109-110")
        ]
        assert not any(one["unchecked"] for one in driven)
        assert {path.name for path in (run / "postmortem/replays/collected-110/R0").iterdir()} == {
            *("metrics", "batches", "journal.jsonl", "run.json", "replay.json", "replayed.json")
        }

    @pytest.mark.slow
    def test_the_story_of_the_spiked_sample_run(self, call: Call, driver: Driver, tmp_path: Path) -> None:
        copy_of("19-spike-001", tmp_path / "19-spike-001")
        code, out, _ = call("prove", "19-spike-001", "--check")
        assert code == 0 and "verdict confirmed: long_tail_tokens" in out
        code, out, _ = call("bisect", "19-spike-001", "--json")
        assert code == 0 and strict(out)["batches"] == [312]
        code, out, _ = call("verify", "19-spike-001/postmortem/diagnosis.json")
        assert code == 0 and "FAIL" not in out


class TestBisect:
    def test_finds_batch_and_rows(self, call: Call, driver: Driver, run: Path) -> None:
        code, out, _ = call("bisect", "run", "--trust", "--json", "--window", "108:112")
        result = strict(out)
        assert code == 0 and (result["batches"], result["rows"], result["window"]) == ([AT], [2, 5], [108, 112])
        driven = list(driver.driven)
        code, out, _ = call("bisect", "run", "--trust", "--window", "108:112", "--no-rows")
        assert code == 0 and driver.driven == driven, "it goes on with what is done"
        assert "next    postmortem replay run --skip 110:111" in out
        assert f"cost    {result['probes']} trials for 4 batches; " in out

    def test_a_window_without_the_culprit(self, call: Call, driver: Driver, run: Path) -> None:
        code, _, err = call("bisect", "run", "--trust", "--window", "111:114")
        assert code == 2 and "does not cure it" in err and err.count("\n") == 2


class TestVerify:
    def test_passes_with_the_remedy_and_fails_with_what_is_none(self, call: Call, proved_run: Path) -> None:
        code, out, err = call("verify", "run/postmortem/diagnosis.json", "--trust")
        assert code == 0 and "replay  from step 100 to " in out and "skip batches [110, 111)" in out, (out, err)
        assert "pass  " in out and "FAIL" not in out
        code, out, _ = call("verify", "run/postmortem/diagnosis.json", "--trust", "--change", "noise=1", "--json")
        result = strict(out)
        assert code == 1 and result["passed"] is False and not all(figure["passed"] for figure in result["results"])

    @pytest.mark.processes
    @pytest.mark.parametrize(("words", "code"), [((), 0), (("--change", "noise=1"), 1)])
    def test_on_the_spiked_sample_run(self, call: Call, tmp_path: Path, words: tuple[str, ...], code: int) -> None:
        run = copy_of("19-spike-001", tmp_path / "19-spike-001")
        assert call("draft", "19-spike-001")[0] == 0
        exit_code, out, err = in_a_process(tmp_path, "verify", "19-spike-001/postmortem/diagnosis.json", *words)
        assert exit_code == code and ("FAIL" in out) == bool(code), (out, err)
        assert (run / "postmortem" / "replays" / "verify-312" / "remedy" / "replayed.json").is_file()

    def test_on_other_arithmetic_the_band_is_measured(
        self, call: Call, driver: Driver, proved_run: Path, tmp_path: Path
    ) -> None:
        other = edited(proved_run, tmp_path / "other" / "run", lambda run: run["environment"].update(torch="1.0.0"))
        code, out, _ = call("verify", f"{other}/postmortem/diagnosis.json", "--trust")
        assert code == 0 and "FAIL" not in out
        assert driver.driven == ["R0", "noise-1", "noise-2"]

    def test_without_a_remedy_it_says_what_it_needs(self, call: Call, run: Path, tmp_path: Path) -> None:
        assert call("draft", "run")[0] == 0
        file = run / "postmortem" / "diagnosis.json"
        drafted = json.loads(file.read_text())
        for incident in drafted["incidents"]:
            incident["remedy"] = None
        file.write_text(json.dumps(drafted))
        code, out, err = call("verify", "run/postmortem/diagnosis.json", "--trust")
        assert (code, out) == (2, "")
        assert "prove a cause first (postmortem prove), or name a change with --change" in err
        drafted["incidents"][0]["onset_step"] = 111
        file.write_text(json.dumps(drafted))
        code, _, err = call("verify", "run/postmortem/diagnosis.json", "--trust", "--change", "noise=1")
        assert code == 2 and "the run has changed since; draft it again: postmortem draft run" in err

    def test_of_another_run(self, call: Call, proved_run: Path, tmp_path: Path) -> None:
        other = edited(proved_run, tmp_path / "other", lambda run: run.update(id="another"))
        code, _, err = call("verify", f"{other}/postmortem/diagnosis.json", "--trust")
        assert code == 2 and "is about run, and the run beside it is another" in err
        loose = tmp_path / "diagnosis.json"
        loose.write_text((proved_run / "postmortem" / "diagnosis.json").read_text())
        code, _, err = call("verify", loose, "--trust")
        assert code == 2 and "is in no run that could be replayed; name the fixed run with --against RUN" in err


class TestWords:
    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            ("prove run --workers 0", 2, "--workers is 0; it must be at least 1"),
            ("prove run --workers x", 2, "should be a valid integer"),
            ("prove run --export a --collect b", 2, "one at a time"),
            ("prove run --trust --incident 9", 2, "There is no incident 9"),
            ("prove run --trust --export run", 2, "already exists and contains no exported jobs"),
            ("prove absent", 3, "absent"),
            ("prove log.csv", 2, "only a run directory that a recorder wrote can be replayed"),
            ("bisect run --trust --window 312", 2, "expected FIRST:LAST, half-open"),
            ("bisect run --trust --window 120:110", 2, "contains no batch"),
            ("bisect run --trust --window 20:120", 2, "search from 100 on"),
            ("bisect run --trust --incident 9", 2, "There is no incident 9"),
            ("bisect absent", 3, "absent"),
            ("verify absent.json", 3, "absent.json"),
            ("verify run/run.json", 3, "run.json"),
        ],
    )
    def test_what_cannot_be_meant_is_one_message(
        self, call: Call, driver: Driver, run: Path, tmp_path: Path, words: str, code: int, message: str
    ) -> None:
        (tmp_path / "log.csv").write_text("step,loss\n" + "".join(f"{n},{2.3}\n" for n in range(60)))
        before = files(run)
        got, out, err = call(*words.split())
        assert got == code and message in " ".join(err.replace("│", " ").split()), err
        assert "verdict" not in out and "Traceback" not in err and not driver.driven and files(run) == before

    @pytest.mark.parametrize("command", ["prove", "bisect"])
    def test_a_run_without_an_incident(self, call: Call, command: str) -> None:
        code, _, err = call(command, sample("clean-001"))
        assert code == 2 and "has no incident: there is nothing to experiment on" in err

    def test_what_led_to_the_worst_is_planned_for_and_the_worst_is_named(
        self, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        columns = healthy()
        for at, height in ((300, 2.0), (340, 6.0)):
            columns["loss"][at : at + 4] += height
            columns["grad_norm"][at : at + 4] *= 40
        manifest = {"program": "postmortem.lab.program:build", "config": {}}
        write_run(tmp_path / "run", columns, batches=healthy_batches(), manifest=manifest)
        monkeypatch.setattr("postmortem.experiment.target.first_of_cascade", lambda incidents, *_: incidents[1])
        code, out, _ = call("prove", "run", "--dry-run")
        led = "about   loss spike at step 300, the first of those that led to the worst one (step 340; --incident 1), "
        assert code == 0 and out.startswith(led)
        code, out, _ = call("prove", "run", "--dry-run", "--incident", "1")
        assert code == 0 and out.startswith("about   loss spike at step 340, replayed from")

    def test_a_run_without_a_program(self, call: Call, tmp_path: Path) -> None:
        worked_example(tmp_path / "19-spike-001")
        code, _, err = call("prove", "19-spike-001")
        assert code == 2 and "the run names no program" in err

    @pytest.mark.parametrize(
        "words", ["prove run", "prove run --dry-run", "prove run --export jobs", "bisect run", "verify {file}"]
    )
    def test_a_stranger_s_program_is_named_and_not_imported(
        self, call: Call, driver: Driver, proved_run: Path, tmp_path: Path, words: str
    ) -> None:
        (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')\n")
        manifest = json.loads((proved_run / "run.json").read_text())
        (proved_run / "run.json").write_text(json.dumps({**manifest, "program": "evil:build"}))
        code, out, err = call(*words.format(file="run/postmortem/diagnosis.json").split())
        assert code == 2 and not out and "evil:build" in err and "--trust" in err and err.count("\n") == 1
        assert not (tmp_path / "harm").exists() and "evil" not in sys.modules and not driver.driven


def test_runs_are_what_they_were(recorded: Path) -> None:
    """No command wrote into the run that the tests share."""
    assert not (recorded / "postmortem").exists() and open_run(recorded).row_steps.size == 150
