"""The commands from outside: what they print, write and exit with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from postmortem import cli, pipeline, sources
from postmortem.errors import UnreadableInput
from postmortem.interventions import intervention_classes
from tests.cli.conftest import Call
from tests.makers import worked_example
from tests.report.factory import CASES, clean, several, spike
from tests.samples import copy_of, sample
from tests.test_pipeline import make


@pytest.fixture
def diagnosed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make every run be diagnosed as one of the factory's cases."""

    class Opened:
        def __init__(self, path: Path) -> None:
            self.path = path
            self.root = None

    def as_case(name: str) -> None:
        def diagnose(run: Opened, **_: object) -> Any:
            return CASES[name]()

        monkeypatch.setattr(sources, "open_run", lambda logs, *_, **__: Opened(Path(logs[0])))
        monkeypatch.setattr(pipeline, "diagnose", diagnose)

    return as_case


def test_draft_writes_report_and_lesson_and_says_where(
    call: Call, diagnosed: Callable[[str], None], tmp_path: Path
) -> None:
    diagnosed("spike")
    code, out, err = call("draft", "metrics.csv")
    assert (code, err) == (0, "")
    assert "19-spike-001  supported" in out and "\x1b" not in out
    assert out.endswith("report  metrics.postmortem/report.md\nlesson  lessons.md\n")
    assert (tmp_path / "metrics.postmortem" / "diagnosis.json").is_file()
    assert "metrics.postmortem/report.md" in (tmp_path / "lessons.md").read_text(encoding="utf-8")
    assert call("draft", "metrics.csv")[1].endswith("report  metrics.postmortem/report.md\n")


def test_the_watchdog_takes_its_settings_and_ends_with_the_rollback_that_it_asks_for(
    call: Call, tmp_path: Path
) -> None:
    copy_of("20-run-004", tmp_path / "run")
    code, out, _ = call("draft", "run", "--mode", "watchdog", "--ratio", "5", "--sustain", "100", "--history", "1000")
    assert code == 0
    assert "Watchdog: roll back to step 800, and skip 200 batches, [805, 1005); reason: non_finite_sustained" in out
    assert out.endswith("\nnext    postmortem replay run --from-step 800 --skip 805:1005\n")
    for words, said in (
        (("--ratio", "2"), "--ratio is a setting of mode watchdog"),
        (("--mode", "watchdog", "--sustain", "0"), "--sustain 0: expected a number of rows, 1 or more"),
    ):
        code, out, err = call("draft", "run", *words)
        assert (code, out) == (2, "") and said in err


def test_an_undecided_incident_is_no_lesson_unless_asked_for(call: Call, tmp_path: Path) -> None:
    losses = [2.0 + 0.01 * (step % 7) + 3.0 * (step == 300) for step in range(400)]
    (tmp_path / "m.csv").write_text("step,loss\n" + "".join(f"{n},{loss}\n" for n, loss in enumerate(losses)))
    code, out, _ = call("draft", "m.csv")
    assert code == 0 and "undecided" in out and "lesson " not in out and not (tmp_path / "lessons.md").exists()
    assert call("draft", "m.csv", "--undecided")[1].splitlines()[-1] == "lesson  lessons.md"
    assert "### m <!-- run m.csv m -->\n\n- **Step 300, undecided.** " in (tmp_path / "lessons.md").read_text("utf-8")
    assert "lesson " not in call("draft", "m.csv")[1]


def test_draft_ends_with_the_command_that_tests_the_cause_and_then_the_remedy(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_of("19-spike-001", tmp_path / "spike")
    original = pipeline.diagnose
    assert call("draft", "spike")[1].endswith("\nnext    postmortem prove spike\n")
    assert "next " not in call("draft", "spike", "--mode", "watchdog")[1], "its incidents have other numbers"
    assert "next " not in call("draft", sample("19-clean-001"), "--out", "clean")[1]
    code, out, err = call("draft", "spike", "--json")
    assert code == 0 and "postmortem prove" not in err and json.loads(out)

    def confirmed(*args: Any, **kwargs: Any) -> Any:
        diagnosis = original(*args, **kwargs)
        incident = replace(diagnosis.incidents[0], verdict="confirmed", proof="it was shown")
        return replace(diagnosis, incidents=(incident, *diagnosis.incidents[1:]))

    monkeypatch.setattr(pipeline, "diagnose", confirmed)
    assert call("draft", "spike")[1].endswith("\nnext    postmortem verify spike/postmortem/diagnosis.json\n")
    assert "next " not in call("draft", "spike", "--out", "elsewhere")[1], "verify needs the run beside the diagnosis"


def test_json_is_alone_on_stdout_and_writes_nothing(
    call: Call, diagnosed: Callable[[str], None], tmp_path: Path
) -> None:
    diagnosed("spike")
    code, out, err = call("draft", "metrics.csv", "--json")
    assert (code, err) == (0, "") and json.loads(out)["run_id"] == "19-spike-001"
    assert not list(tmp_path.iterdir())
    code, out, err = call("draft", "metrics.csv", "--json", "--out", "there", "--lessons", "mine.md")
    assert json.loads(out)["verdict"] == "supported" and "report  there/report.md" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.md", "there"]


@pytest.mark.parametrize(("case", "code"), [("spike", 1), ("clean", 0)])
def test_check(call: Call, diagnosed: Callable[[str], None], case: str, code: int) -> None:
    diagnosed(case)
    assert call("draft", "x.csv", "--check")[0] == code
    assert call("draft", "x.csv")[0] == 0


def test_incident_and_at(call: Call, diagnosed: Callable[[str], None], tmp_path: Path) -> None:
    diagnosed("several")
    call("draft", "x.csv", "--at", "700")
    assert "about incident 2" in (tmp_path / "x.postmortem" / "report.md").read_text(encoding="utf-8")
    code, out, err = call("draft", "x.csv", "--incident", "7")
    assert (
        code == 2
        and out == ""
        and err.startswith("postmortem: There is no incident 7: there are 1 (loss_spike at step 312)")
    )


@pytest.mark.parametrize("mapping", ["loss", "loss=", "=x", "loss=a,loss=b"])
def test_a_bad_map_is_a_usage_error(call: Call, mapping: str) -> None:
    code, _, err = call("draft", "x.csv", "--map", mapping)
    assert code == 2 and err.startswith("postmortem: --map: ") and err.count("\n") == 1


def test_a_source_is_named_where_the_file_does_not_tell(call: Call, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("step,loss\n0,2\n")
    assert call("draft", "log.txt", "--json")[0] == 3
    code, out, _ = call("draft", "log.txt", "--json", "--source", "csv")
    assert code == 0 and json.loads(out)["run"]["source"] == "csv"
    code, _, err = call("draft", "log.txt", "--source", "cvs")
    assert code == 2 and "--source cvs: no format has this name; there are csv, detectron2 or OpenMMLab, fastai" in err


def test_errors_are_one_line_with_their_exit_code(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: BaseException) -> Callable[..., Any]:
        def open_run(*_: object, **__: object) -> Any:
            raise error

        return open_run

    for error, code, words in (
        (UnreadableInput("is torn.\x1b[31m", file="a\nb.csv", line=3), 3, "postmortem: a b.csv:3: is torn.\ufffd[31m"),
        (ZeroDivisionError("oops"), 70, "postmortem: internal error, please report it (ZeroDivisionError: oops)"),
        (KeyboardInterrupt(), 130, ""),
    ):
        monkeypatch.setattr(sources, "open_run", fails(error))
        got, out, err = call("draft", "x.csv")
        assert got == code and out == "" and err.lstrip().startswith(words) and "Traceback" not in err


def test_a_traceback_only_when_asked_for(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_run(*_: object, **__: object) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(sources, "open_run", open_run)
    monkeypatch.setenv("POSTMORTEM_DEBUG", "1")
    assert "Traceback" in call("draft", "x.csv")[2]


def test_a_bad_lessons_file_stops_before_anything_is_written(call: Call, tmp_path: Path) -> None:
    (tmp_path / "lessons.md").write_bytes(b"\xff")
    code, _, err = call("draft", "x.csv")
    assert code == 2 and "lessons.md:1: is not UTF-8" in err
    assert [p.name for p in tmp_path.iterdir()] == ["lessons.md"]


def test_report_renders_a_diagnosis_alone(call: Call, tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(several().to_json(), encoding="utf-8")
    code, out, _ = call("report", "d.json", "--incident", 2)
    assert code == 0 and out.startswith("# Training post-mortem — 2026-11-20 — three-things")
    code, out, _ = call("report", "d.json", "--out", "there")
    assert out == "report  there/report.md\n" and (tmp_path / "there" / "panels" / "overview.png").is_file()
    assert call("report", "d.json", "--format", "pdf")[0] == 2
    assert call("report", "d.json", "--format", "pdf", "--out", "x")[0] == 2
    assert call("report", "absent.json")[0] == 3
    (tmp_path / "d.json").write_text(clean().to_json().replace('"schema_version": 2', '"schema_version": 99'))
    assert "schema_version 99" in call("report", "d.json")[2]


def test_explain(call: Call) -> None:
    code, out, _ = call("explain")
    slugs = [line.split()[0] for line in out.splitlines()]
    assert code == 0 and {"long_tail_tokens", "benign", "unknown"} <= set(slugs)
    for slug in slugs:
        code, out, err = call("explain", slug)
        assert (code, err) == (0, "") and f"`{slug}`" in out and "\x1b" not in out
    code, _, err = call("explain", "long_tail_token")
    assert code == 2 and "Did you mean long_tail_tokens" in err


def test_interventions_lists_every_change(call: Call) -> None:
    code, out, _ = call("interventions")
    assert code == 0 and [line.split("=")[0].rstrip("[") for line in out.splitlines()] == sorted(intervention_classes())
    assert "skip=A:B[,C:D] " in out and "distinct[=A:B] " in out


COMMANDS = [c.callback.__name__.replace("_", "-") for c in cli.app.registered_commands if c.callback]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_has_an_example_and_fits_eighty_columns(
    call: Call, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = call(*command, "--help")
    assert code == 0 and "Example" in out and f"postmortem {' '.join(command)}".strip() in out
    assert max(map(len, out.splitlines())) <= 80 and "...\n" not in out.partition("Commands:")[2]


def test_usage_errors_exit_with_2(call: Call) -> None:
    assert call("draft")[0] == 2 and call("drafft")[0] == 2 and call("draft", "x", "--incident", "one")[0] == 2
    assert call("--version") == (0, "postmortem 0.1.0\n", "")


def run(*words: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, **(env or {})},
        capture_output=True,
        timeout=120,
        check=False,
        **options,
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['postmortem', '--help']\nfrom postmortem.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'pandas', 'matplotlib', 'pyarrow', 'numpy', 'jinja2'} & set(sys.modules)))"
    )
    assert run("-c", code).stdout.splitlines()[-1] == b"[]"


@pytest.mark.processes
def test_report_and_drawing_import_neither_torch_nor_pandas(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(spike().to_json(), encoding="utf-8")
    words = ["postmortem", "report", str(tmp_path / "d.json"), "--out", str(tmp_path / "o")]
    code = (
        f"import sys\nsys.argv = {words!r}\nfrom postmortem.cli import main\ntry: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    )
    assert run("-c", code).stdout.splitlines()[-1] == b"[]"


@pytest.mark.processes
def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(spike().to_json(), encoding="utf-8")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "postmortem", "report", str(tmp_path / "d.json")],
            stdout=closed,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.stderr == b"" and done.returncode == 0


def test_json_stays_utf8_where_the_terminal_is_not(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(spike().to_json(), encoding="utf-8")
    done = run("-m", "postmortem", "report", str(tmp_path / "d.json"), env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and b"Traceback" not in done.stderr


class TestVerifyAgainst:
    """`postmortem verify DIAGNOSIS --against RUN`, which drives nothing."""

    def test_the_run_that_broke_fails(self, call: Call, tmp_path: Path) -> None:
        worked_example(tmp_path / "spike")
        assert call("draft", "spike")[0] == 0
        code, out, _ = call("verify", "spike/postmortem/diagnosis.json", "--against", "spike")
        assert code == 1 and "in the broken run): 5.84 at step 313" in " ".join(out.split()), out

    def test_rows_that_were_rolled_back_are_said_to_be_checked(self, call: Call, tmp_path: Path) -> None:
        copy_of("19-spike-001-recovered", tmp_path / "recovered")
        assert call("draft", "recovered")[0] == 0
        code, out, _ = call("verify", "recovered/postmortem/diagnosis.json", "--against", "recovered")
        assert code == 1 and "attempt 0, which were rolled back: this is the run that broke" in out, out

    def test_a_harmless_cause_leaves_nothing_to_verify(self, call: Call, tmp_path: Path) -> None:
        make("logging_artifact", tmp_path / "artifact")
        assert call("draft", "artifact")[0] == 0
        assert "nothing in the run has to change" in (tmp_path / "artifact/postmortem/report.md").read_text()
        code, out, err = call("verify", "artifact/postmortem/diagnosis.json", "--against", "artifact")
        assert (code, out) == (6, "") and "so there is nothing to verify" in err
        code, out, _ = call("verify", "artifact/postmortem/diagnosis.json", "--json")
        assert code == 6 and json.loads(out) == {"passed": None, "results": []}
