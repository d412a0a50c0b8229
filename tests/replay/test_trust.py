"""Nothing of a program is imported before somebody has said so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from postmortem.errors import UsageError
from postmortem.replay.trust import find_program, load_factory, trusted_program
from tests.replay.small import drive, edited, small_run
from tests.samples import ROOT, copy_of

LAB = "postmortem.lab.program:build"


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the module `evil_train`, which is found from here, writes when it is imported."""
    trace = tmp_path / "imported"
    package = tmp_path / "evil_package"
    package.mkdir()
    body = f"from pathlib import Path\nPath({str(trace)!r}).write_text('it ran')\ndef build(config): raise ValueError\n"
    (tmp_path / "evil_train.py").write_text(body)
    for name in ("__init__", "train"):
        (package / f"{name}.py").write_text(body)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield trace
    for name in ("evil_train", "evil_package", "evil_package.train"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("module", ["evil_train", "evil_package.train"])
def test_a_run_from_elsewhere_imports_nothing(tmp_path: Path, evil: Path, module: str) -> None:
    run = edited(
        small_run(tmp_path / "made"), tmp_path / "run", lambda manifest: manifest.update(program=f"{module}:build")
    )
    place = str(tmp_path / f"{module.replace('.', '/')}.py")
    with pytest.raises(UsageError, match="--trust") as error:
        drive(run, tmp_path / "out", 4, 8, trusted=False)
    assert f"'{module}:build', which would be imported from {place}" in str(error.value)
    assert not evil.exists() and not (tmp_path / "out").exists() and module not in sys.modules
    with pytest.raises(UsageError, match="cannot be built"):
        drive(run, tmp_path / "out", 4, 8, trusted=True)
    assert evil.exists(), "and what the test looks for is what an import leaves"


def test_what_is_ours_or_given_needs_no_trust() -> None:
    ours = trusted_program(LAB, None, trust=False)
    assert (ours.name, ours.notice) == (LAB, "")
    assert trusted_program("evil_train:build", "mine:build", trust=False).name == "mine:build"
    given = trusted_program(None, "tests.replay.programs:build", trust=False)
    assert given.notice.endswith("tests/replay/programs.py")
    with pytest.raises(UsageError, match="names no program"):
        trusted_program(None, None, trust=True)


@pytest.mark.parametrize("name", ["postmortem.lab.program:build ", "postmortem.lab.program:torch.load", "os:system"])
def test_what_only_resembles_ours_does(name: str) -> None:
    with pytest.raises(UsageError, match="Import and run it with --trust"):
        trusted_program(name, None, trust=False)


def test_a_hostile_name_does_nothing_to_a_terminal() -> None:
    with pytest.raises(UsageError) as error:
        trusted_program("a\x1b[2Jb\n\u202e:x", None, trust=False)
    assert not set("\x1b\n\u202e") & set(str(error.value))


def test_where_a_module_would_come_from() -> None:
    def place(name: str) -> str:
        return find_program(name).location

    assert place("no_such_module_at_all.train:build") == "(no module 'no_such_module_at_all' is found from here)"
    assert place("json.no_such_part:x") == "(no module 'json.no_such_part' is found from here)"
    assert place("json.decoder:x").endswith("json/decoder.py")


@pytest.mark.processes
def test_looking_imports_no_parent_package() -> None:
    code = (
        "import sys; from postmortem.replay.trust import find_program; "
        "print(find_program('wsgiref.simple_server:x').location, find_program('tests.replay.programs:build').location, "
        "[name for name in sys.modules if name.split('.')[0] in ('wsgiref', 'tests', 'torch')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]") and "simple_server.py" in done.stdout and "programs.py" in done.stdout


def test_a_program_that_no_longer_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_train.py").write_text("import json\njson.a_name_of_last_year\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UsageError, match=r"no longer imports: AttributeError.*Fix it, or name another with --program"):
        load_factory(find_program("broken_train:build"))
    with pytest.raises(UsageError, match="no module named 'gone_train' is found"):
        load_factory(find_program("gone_train:build"))


@pytest.mark.processes
def test_no_module_that_lies_beside_a_run_is_imported_for_our_own_program(tmp_path: Path) -> None:
    """Neither by the command nor by the processes that it starts."""
    run = copy_of("20-run-003", tmp_path / "run")
    for name in ("xxhash", "torch", "pyarrow"):
        (run / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('x')\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-P", "-m", "postmortem", "bisect", ".", "--no-rows", "--window", "540:542"]
    done = subprocess.run(words, cwd=run, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "does not cure it" in done.stderr, done.stderr
    assert not (tmp_path / "ran").exists()
