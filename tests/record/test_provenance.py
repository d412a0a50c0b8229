"""Where a run comes from, without its secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from postmortem.record.provenance import REDACTED, is_secret_name, redacted, redacted_command, scrubbed, variables

ROOT = Path(__file__).parents[2]
_TRAIN = """
import sys
from postmortem.record import Recorder
with Recorder(sys.argv[1], config={"lr": 0.1, "wandb_api_key": "topsecretvalue", "eos_token_id": 50256}) as rec:
    rec.log(0, loss=1.0)
"""


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["--api-key", "abc", "--lr", "1"], ["--api-key", REDACTED, "--lr", "1"]),
        (["--api-key=abc"], [f"--api-key={REDACTED}"]),
        (["wandb.api_key=abc", "model.d=64"], [f"wandb.api_key={REDACTED}", "model.d=64"]),
        (["--hfToken", "abc"], ["--hfToken", REDACTED]),
        (["--password", "--lr", "1"], ["--password", "--lr", "1"]),
        (["--tokenizer", "gpt2", "--max-tokens=4096"], ["--tokenizer", "gpt2", "--max-tokens=4096"]),
        (["https://me:hunter22@host/x"], [f"https://{REDACTED}@host/x"]),
        (["x", "hf_" + "a1" * 17], ["x", REDACTED]),
        (["AKIAABCDEFGHIJKLMNOP"], [REDACTED]),
        (["--note", "my-secret-in-env"], ["--note", REDACTED]),
    ],
)
def test_command_lines_lose_their_secrets(given: list[str], shown: list[str]) -> None:
    assert redacted_command(given, {"WANDB_API_KEY": "my-secret-in-env"}) == shown


def test_which_names_are_secret() -> None:
    secret = ("api_key", "WANDB_API_KEY", "HF_TOKEN", "dbPassword", "aws-secret-access-key", "auth")
    harmless = ("tokens", "tokenizer", "keyboard", "monkey", "author", "n_tokens", "secretary")
    assert all(map(is_secret_name, secret)) and not any(map(is_secret_name, harmless))


def test_configs_keep_numbers_and_special_tokens() -> None:
    config = {"a": {"api_key": "xyz"}, "eos_token_id": 2, "pad_token": "<pad>", "list": [{"token": "t"}], "lr": 0.1}
    assert redacted(config, {}) == {
        "a": {"api_key": REDACTED}, "eos_token_id": 2, "pad_token": "<pad>", "list": [{"token": REDACTED}], "lr": 0.1
    }  # fmt: skip


def test_variables_are_allow_listed() -> None:
    environment = {
        "RANK": "0", "NCCL_DEBUG": "INFO", "PATH": "/bin", "WANDB_API_KEY": "k" * 20, "NCCL_SECRET": "x",
        "TORCH_LOGS": "k" * 20, "PYTORCH_CUDA_ALLOC_CONF": "y" * 5_000,
    }  # fmt: skip
    found = variables(environment)
    assert found == {
        "NCCL_DEBUG": "INFO", "PYTORCH_CUDA_ALLOC_CONF": "y" * 1_000, "RANK": "0", "TORCH_LOGS": REDACTED
    }  # fmt: skip


def test_private_keys_are_scrubbed_whole() -> None:
    text = "a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabcd\n-----END RSA PRIVATE KEY-----\nb"
    assert scrubbed(text, {}) == f"a\n{REDACTED}\nb"


def _git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_run_tells_its_code_and_no_secret(tmp_path: Path) -> None:
    code, run = tmp_path / "code", tmp_path / "run"
    code.mkdir()
    (code / "train.py").write_text(_TRAIN)
    (code / "settings.env").write_text("LR=1\n")
    (code / ".gitattributes").write_text("*.env diff=evil\n")
    _git(code, "init", "-q")
    _git(code, "config", "core.fsmonitor", f"touch {tmp_path / 'ran'}; false")
    _git(code, "config", "diff.evil.textconv", f"touch {tmp_path / 'ran'}; cat")
    _git(code, "add", ".")
    subprocess.run(["rm", "-f", str(tmp_path / "ran")], check=True)
    _git(code, "-c", "core.fsmonitor=false", "commit", "-qm", "first")
    (code / "settings.env").write_text("LR=2\nDB_PASSWORD=hunter2-and-more\nOTHER=env-secret-value\n")
    (tmp_path / "ran").unlink(missing_ok=True)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "WANDB_API_KEY": "env-secret-value", "NCCL_DEBUG": "WARN", "OMP_NUM_THREADS": "1"
    }  # fmt: skip
    command = [sys.executable, str(code / "train.py"), str(run), "--api-key", "argv-secret-value", "--lr=0.1"]
    for _ in range(2):
        subprocess.run(command, env=environment, check=True)
    manifest = json.loads((run / "run.json").read_text())
    assert manifest["command"][-3:] == ["--api-key", REDACTED, "--lr=0.1"]
    assert manifest["git"]["commit"] == _git(code, "rev-parse", "HEAD")
    assert manifest["packages"]["numpy"] and manifest["variables"]["NCCL_DEBUG"] == "WARN"
    assert manifest["config"] == {"lr": 0.1, "wandb_api_key": REDACTED, "eos_token_id": 50256}
    assert manifest["git"]["patch"] == "code-1.patch"
    patch = (run / "code.patch").read_text()
    assert "+LR=2" in patch and f"+DB_PASSWORD={REDACTED}" in patch
    assert "environment_change" not in (run / "journal.jsonl").read_text()
    for file in run.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            for secret in (b"argv-secret-value", b"env-secret-value", b"hunter2-and-more", b"topsecretvalue"):
                assert secret not in content, file
    assert not (tmp_path / "ran").exists(), "the repository's own configuration was run"


def test_a_large_patch_is_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from postmortem.record import provenance

    code = tmp_path / "code"
    code.mkdir()
    (code / "data.txt").write_text("a\n")
    _git(code, "init", "-q")
    _git(code, "add", ".")
    _git(code, "commit", "-qm", "first")
    (code / "data.txt").write_text("0123456789\n" * 300_000)
    monkeypatch.chdir(code)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    run = tmp_path / "run"
    run.mkdir()
    found = provenance.provenance(run, 0)["git"]
    assert found["patch_truncated"] and (run / "code.patch").stat().st_size <= 2**20
    monkeypatch.chdir(tmp_path)
    assert "git" not in provenance.provenance(run, 0)
