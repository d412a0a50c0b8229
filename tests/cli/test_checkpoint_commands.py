"""`checkpoints`, `plan` and `doctor` from outside: what they print and exit with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from postmortem.record.writer import RunWriter
from postmortem.terminal_layout import joined, table
from tests.checkpoint.makers import dcp, flipped, gadgets, state
from tests.cli.conftest import ROOT, Call, on_a_terminal


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a checkpoint of each format, `latest`, and 320 rows."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "run"
    for role in ("rollback", "recovery", "best-k"):
        (path / role).mkdir(parents=True)
    dcp(path / "recovery" / "step-00000200.dcp")
    dcp(path / "rollback" / "step-00000300.dcp")
    torch.save({"model": state()["model"]}, path / "best-k" / "dev-loss-2.341-step-00000300.pt")
    (path / "latest").symlink_to("recovery/step-00000200.dcp")
    with RunWriter(path) as writer:
        for step in range(320):
            writer.log(step, {"loss": 1.0})
    return path


def test_the_listing_of_a_sound_run(call: Call, run: Path) -> None:
    code, out, err = call("checkpoints", run, "--check")
    assert (code, err) == (0, "")
    head, *rows = out.splitlines()[:4]
    assert head.split() == ["role", "step", "size", "state", "inside", "finite", "checksums"]
    assert [row.split()[:3] for row in rows] == [
        ["*", "recovery", "200"],
        ["best-k", "300", rows[1].split()[2]],
        ["rollback", "300", rows[2].split()[2]],
    ]
    assert "model, moments, schedule, loader, rng  yes     ok" in rows[2]
    assert rows[1].split()[-3:] == ["model", "yes", "ok"]
    assert out.endswith("* latest leads to recovery/step-00000200.dcp\n")


def test_json_and_fast(call: Call, run: Path) -> None:
    code, out, _ = call("checkpoints", run, "--json", "--fast")
    read = json.loads(out)
    assert code == 0 and read["latest"] == "recovery/step-00000200.dcp"
    first = read["checkpoints"][0]
    assert first["sound"] and first["contents"] == ["model", "moments", "schedule", "loader", "rng"]
    assert (first["nonfinite"], first["checksums"]) == (None, "not read")


def test_one_checkpoint_alone(call: Call, run: Path) -> None:
    for path in (run / "recovery" / "step-00000200.dcp", run / "best-k" / "dev-loss-2.341-step-00000300.pt"):
        code, out, _ = call("checkpoints", path, "--json")
        assert code == 0 and [row["path"] for row in json.loads(out)["checkpoints"]] == [path.name]


def test_trouble_in_one_leaves_the_others_listed(call: Call, run: Path, tmp_path: Path) -> None:
    import torch

    canary = tmp_path / "canary"
    evil = run / "rollback" / "step-00000310.dcp"
    evil.mkdir()
    (evil / ".metadata").write_bytes(gadgets(canary)["REDUCE posix.system"])
    out_of_run = run / "rollback" / "step-00000311.dcp"
    out_of_run.symlink_to(tmp_path)
    torch.save({"model": torch.tensor([1.0, float("nan")])}, run / "rollback" / "step-00000312.pt")
    (run / "rollback" / ".step-00000313.dcp.tmp-9").mkdir()
    weights = run / "rollback" / "step-00000300.dcp" / "__0_0.distcp"
    weights.write_bytes(flipped(weights.read_bytes(), 70))
    (run / "journal.jsonl").write_text(
        '{"event": "checkpoint", "step": 1, "path": "../../../etc/passwd"}\n'
        '{"event": "checkpoint", "step": 2, "path": "a\\u0000b"}\n{"event": "checkpoint", "step": 3, "path": 5}\n'
        '{"event": "checkpoint", "step": 4, "path": "."}\n'
    )
    code, out, err = call("checkpoints", run)
    assert (code, err) == (0, "") and not canary.exists()
    states = {line.split()[1]: line for line in out.split("\n\n")[0].replace("*", " ").splitlines()[1:]}
    assert states["310"].split()[-5:] == ["damaged", "–", "–", "not", "read"]
    assert "refused" in states["311"] and "unfinished" in states["313"] and "  no  " in states["312"]
    for text in (
        "rollback/step-00000310.dcp\n  - .metadata: names posix.system, which is not on the list",
        "leads outside the run",
        "CRC32 is wrong",
        "non-finite elements in model (1)",
    ):
        assert text in out
    assert call("checkpoints", run, "--check")[0] == 1
    assert "ok" in states["200"]


@pytest.mark.parametrize("change", ["nan", "cut"])
def test_check_says_what_is_wrong_by_its_exit_code(call: Call, run: Path, change: str) -> None:
    import torch

    if change == "nan":
        torch.save({"model": torch.tensor([float("inf")])}, run / "best-k" / "dev-loss-1.000-step-00000310.pt")
    else:
        (run / "rollback" / "step-00000300.dcp" / ".metadata").unlink()
    assert (call("checkpoints", run)[0], call("checkpoints", run, "--check")[0]) == (0, 1)


def test_nothing_to_list(call: Call, tmp_path: Path) -> None:
    code, out, err = call("checkpoints", tmp_path)
    assert (code, out) == (3, "") and "has no checkpoints" in err and err.count("\n") == 1
    assert call("checkpoints", tmp_path / "nowhere")[0] == 3


@pytest.mark.processes
@pytest.mark.parametrize("words", [("checkpoints",), ("doctor",)])
def test_looking_needs_no_torch(words: tuple[str, ...], run: Path) -> None:
    code = (
        "import sys; from postmortem.cli import main\ntry: main()\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words, str(run)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr.endswith("False\n"), done.stderr
    assert "step" in done.stdout


@pytest.mark.parametrize("columns", [80, 140])
def test_the_listing_fits_a_terminal(columns: int, run: Path) -> None:
    command = ("-m", "postmortem", "checkpoints", str(run))
    lines = on_a_terminal(command, {"COLUMNS": str(columns), "TERM": "xterm"}, errors=False).splitlines()
    assert max(map(len, lines)) <= columns
    assert any("model, moments, schedule, loader, rng" in line for line in lines) == (columns == 140)


def test_a_table_gives_way_in_its_widest_column() -> None:
    rows = [("name", "what", "n"), ("a", "one two three four", "5")]
    assert [joined(line) for line in table(rows, None, right=(2,))] == [
        "name  what                n",
        "a     one two three four  5",
    ]
    assert [joined(line) for line in table(rows, 23, right=(2,))] == [
        "name  what            n",
        "a     one two three   5",
        "      four",
    ]


def test_the_plan_of_the_policy_that_it_follows(call: Call) -> None:
    code, out, err = call("plan", "--params", "7e9", "--dtype", "fp32", "--optimizer", "adamw")
    assert (code, err) == (0, "")
    assert "(4 weight + 2 × 4 moments) = 84 GB" in out
    assert "rollback  100 steps   full        84 GB     5  420 GB" in out
    totals = [line.split()[-2] for line in out.splitlines() if line.startswith(("  all", "  by role"))]
    assert totals == ["924", "756", "476"]
    assert "a crash loses up to 100 steps" in out and "more than 10 GB" in out


def test_a_plan_of_another_policy(call: Call, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("checkpoint:\n  rollback_every: 50\n  retention:\n    rollback_keep: 2\n")
    words = ("plan", "--params", "1e9", "--config", policy, "--rollback-contents", "parameters", "--json")
    code, out, _ = call(*words, "--ranks", 4, "--write-gbps", 2)
    made = json.loads(out)
    assert code == 0 and made["rank_bytes"] == 3 * 10**9
    assert made["roles"][0] == {
        "role": "rollback",
        "contents": "parameters",
        "every": 50,
        "keep": 2,
        "bytes_each": 4 * 10**9,
        "seconds": 2.0,
        "bytes": 8 * 10**9,
    }
    assert "resets the optimizer" in made["advice"][0]
    code, out, _ = call(*words[:-1])
    assert "a spike loses up to 50 steps before its onset, if it is noticed within 50 steps" in out


def test_a_plan_of_a_policy_in_toml(call: Call, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[checkpoint]\nrollback_every = 50\n[checkpoint.retention]\nrollback_keep = 2\n")
    code, out, _ = call("plan", "--params", "1e9", "--config", policy, "--json")
    assert code == 0 and [json.loads(out)["roles"][0][key] for key in ("every", "keep")] == [50, 2]
    policy.write_text("checkpoint = [\n")
    code, out, err = call("plan", "--params", "1e9", "--config", policy)
    assert (code, out, err.count("\n")) == (3, "", 1) and "policy.toml: cannot be read as TOML (not TOML:" in err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--params", "0"), "--params"),
        (("--params", "1e9", "--dtype", "x"), "choose from fp32"),
        (("--params", "1e9", "--rollback-keep", "0"), "rollback_keep"),
    ],
)
def test_a_plan_that_cannot_be_made(call: Call, words: tuple[str, ...], why: str) -> None:
    code, out, err = call("plan", *words)
    assert (code, out) == (2, "") and why in err and err.count("\n") == 1


def test_doctor(call: Call, run: Path) -> None:
    code, out, err = call("doctor", run, "--check")
    assert (code, err) == (0, "")
    verdict = "yes, to step 300; 20 steps would be repeated; 2 warnings"
    assert out.startswith(f"run: could it be rolled back now? {verdict}\n")
    assert "ok    full state: model, moments, schedule, loader, rng" in out
    assert "warn  batch hashes: not logged" in out and "fix: rec.batch(step, batch) hashes every batch" in out
    read = json.loads(call("doctor", run, "--json")[1])
    assert read["ready"] and read["target"] == "rollback/step-00000300.dcp" and read["lost_steps"] == 20


@pytest.mark.parametrize("ending", ["", ".dcp"])
def test_checkpoints_that_are_named_by_role_and_step(call: Call, tmp_path: Path, ending: str) -> None:
    """As `dcp.save(state, checkpoint_id=f"runs/exp7/recovery-{step:08d}")` leaves them."""
    pytest.importorskip("torch")
    run = tmp_path / "run"
    with RunWriter(run) as writer:
        for step in range(320):
            writer.log(step, {"loss": 1.0 if step != 310 else 9.0})
    dcp(run / f"recovery-00000200{ending}")
    dcp(run / f"rollback-00000300{ending}")
    (run / f".rollback-00000310{ending}.tmp-9").mkdir()
    code, out, _ = call("checkpoints", run, "--json")
    named = [(row["path"], row["role"], row["step"], row["sound"]) for row in json.loads(out)["checkpoints"]]
    assert code == 0 and named == [
        (f"recovery-00000200{ending}", "recovery", 200, True),
        (f"rollback-00000300{ending}", "rollback", 300, True),
        (f".rollback-00000310{ending}.tmp-9", "rollback", 310, False),
    ]
    assert "unfinished" in call("checkpoints", run)[1]
    read = json.loads(call("doctor", run, "--json")[1])
    assert (read["target"], read["lost_steps"]) == (f"rollback-00000300{ending}", 20)
    (incident,) = json.loads(call("draft", run, "--json")[1])["incidents"]
    assert incident["checkpoint"] == f"rollback-00000300{ending}"


def test_doctor_where_nothing_can_be_rolled_back(call: Call, run: Path) -> None:
    for role in ("rollback", "recovery"):
        (next((run / role).iterdir()) / ".metadata").unlink()
    code, out, _ = call("doctor", run)
    assert code == 0 and "no: checkpoint, full state" in out
    assert call("doctor", run, "--check")[0] == 1
