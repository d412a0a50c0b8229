"""Experiments for other launchers: jobs out, results back in, the same verdict."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from postmortem.errors import PostmortemError, UsageError
from postmortem.experiment.export import JOBS, SCRIPT, export_jobs
from postmortem.experiment.prove import ExperimentDriver, prove
from postmortem.experiment.target import ExperimentTarget, find_target
from postmortem.proof.design import design_experiment
from postmortem.replay.run_replay import replay
from postmortem.replay.spec import read_spec
from tests.replays import Driver

pytestmark = pytest.mark.heavy


def bench(about: ExperimentTarget, *, collect: bool = False) -> ExperimentDriver:
    about = replace(about, collect=collect)
    return ExperimentDriver(
        about,
        design_experiment(about.incident, from_step=about.from_step, independent=about.folder.name != "prove-110"),
    )


@pytest.fixture
def about(rogue_run: Path, tmp_path: Path) -> ExperimentTarget:
    return replace(find_target(rogue_run, "prove", trusted=True), folder=tmp_path / "jobs")


def test_carried_out_elsewhere_it_comes_to_the_verdict_of_prove(
    in_process: Driver, about: ExperimentTarget, rogue_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = export_jobs(bench(about), tmp_path / "jobs")
    jobs = json.loads((tmp_path / "jobs" / JOBS).read_text())
    assert [job["name"] for job in jobs] == [Path(spec.out).name for spec in specs]
    assert not any(Path(spec.out).exists() for spec in specs) and not in_process.driven
    for spec in specs:
        assert spec.run == str(rogue_run), "no job waits for another"
        file = tmp_path / "jobs" / f"{Path(spec.out).name}.json"
        try:
            replay(read_spec(file), provenance=False)
        except UsageError as error:
            assert "precision" in str(error) or "betas" in str(error), "what this program has not"

    collected = prove(bench(about, collect=True))
    here = prove(bench(find_target(rogue_run, "prove", trusted=True)))
    assert (collected.verdict, collected.cause) == (here.verdict, here.cause) == ("confirmed", "long_tail_tokens")
    assert collected.text.replace("(50 rows", "(") == here.text.replace("(50 rows", "(")
    outcomes = [{one.changes: one.outcome for one in proof.experiments} for proof in (collected, here)]
    assert outcomes[0] == outcomes[1]

    # The same folder named from elsewhere, and one result lost on the way.
    shutil.rmtree(tmp_path / "jobs" / "R1-mask-110-111")
    monkeypatch.chdir(tmp_path)
    lost = prove(bench(replace(about, folder=Path("jobs")), collect=True))
    (mask,) = [one for one in lost.experiments if list(map(str, one.changes)) == ["mask=110:111"]]
    assert mask.outcome == "" and "no result was brought back to jobs/R1-mask-110-111" in mask.text
    assert lost.verdict == "undecided", "what is missing confirms nothing and refutes nothing"


def test_without_the_null_replay_there_is_nothing_to_collect(about: ExperimentTarget, tmp_path: Path) -> None:
    export_jobs(bench(about), tmp_path / "jobs")
    with pytest.raises(PostmortemError, match=r"no result was brought back to .*R0") as error:
        prove(bench(about, collect=True))
    assert error.value.exit_code == 2


def test_a_job_says_all_that_its_launcher_needs(about: ExperimentTarget, tmp_path: Path) -> None:
    specs = export_jobs(bench(about), tmp_path / "jobs")
    jobs = {job["name"]: job for job in json.loads((tmp_path / "jobs" / JOBS).read_text())}
    skip = jobs["R2-skip-109-110"]
    assert skip["skip"] == ["109:110"] and skip["changes"] == ["skip=109:110"]
    assert (skip["checkpoint"], skip["from_step"]) == ("rollback/step-00000100.dcp", 100)
    assert jobs["R0"]["changes"] == [] and "R0-again" in jobs
    lines = [line for line in (tmp_path / "jobs" / SCRIPT).read_text().splitlines() if line.startswith("postmortem")]
    assert [shlex.split(line) for line in lines] == [
        ["postmortem", "run-job", str(tmp_path / "jobs" / f"{Path(o.out).name}.json"), "--json", "--trust"]
        for o in specs
    ]


def test_a_program_named_on_the_command_line_is_named_in_every_job(about: ExperimentTarget, tmp_path: Path) -> None:
    """Otherwise each job would refuse to import what only its spec names."""
    named = replace(about, program="tests.replay.rogue_program:build", trusted=False)
    export_jobs(bench(named), tmp_path / "jobs")
    for job in json.loads((tmp_path / "jobs" / JOBS).read_text()):
        words = shlex.split(job["command"])
        assert words[-2:] == ["--program", "tests.replay.rogue_program:build"] and "--trust" not in words


def test_names_of_the_shell_s_own_are_quoted(about: ExperimentTarget, tmp_path: Path) -> None:
    folder = tmp_path / "it's $(reboot); jobs"
    export_jobs(bench(replace(about, folder=folder)), folder)
    for job in json.loads((folder / JOBS).read_text()):
        assert Path(shlex.split(job["command"])[2]).parent == folder


def test_exporting_again_replaces_jobs_and_nothing_else(about: ExperimentTarget, tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    first = export_jobs(bench(about), folder)
    assert export_jobs(bench(about), folder) == first
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="already exists and contains no exported jobs"):
        export_jobs(bench(about), tmp_path / "thesis")
    assert [file.name for file in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]
    with pytest.raises(UsageError, match="already exists and contains no exported jobs"):
        export_jobs(bench(about), tmp_path / "thesis" / "thesis.tex")


def test_results_of_another_run_are_not_taken(in_process: Driver, about: ExperimentTarget, tmp_path: Path) -> None:
    made = bench(about)
    export_jobs(made, tmp_path / "jobs")
    replay(made.null_spec(), provenance=False)
    other = Path(shutil.copytree(about.run.path, tmp_path / "other"))
    theirs = replace(find_target(other, "prove", trusted=True), folder=tmp_path / "jobs")
    with pytest.raises(PostmortemError, match="no result was brought back"):
        prove(bench(theirs, collect=True))


def test_damaged_results_count_as_missing(about: ExperimentTarget, tmp_path: Path) -> None:
    made = bench(about)
    export_jobs(made, tmp_path / "jobs")
    replay(made.null_spec(), provenance=False)
    result = tmp_path / "jobs" / "R0" / "replayed.json"
    whole = result.read_text()
    for damage in (whole[:40], "[]", re.sub(r'"seconds": [\d.]+', '"seconds": 1' + 400 * "0", whole), "\x00"):
        result.write_text(damage)
        with pytest.raises(PostmortemError, match="no result was brought back"):
            prove(bench(about, collect=True))
