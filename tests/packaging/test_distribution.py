"""The wheel that users get, built from the sdist, and the editable install that developers use."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import postmortem

pytestmark = pytest.mark.processes
ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted(path.name for path in (ROOT / "templates").iterdir())
PROBE = """
import postmortem
from postmortem.report import formats, render
from postmortem.diagnosis import SCHEMA_VERSION, Diagnosis, RunFacts
facts = RunFacts("probe", "csv", 0, None, None, None, None, "", None, "")
diagnosis = Diagnosis(SCHEMA_VERSION, "probe", "probe", "no_incident", facts, (), ())
print(postmortem.__file__)
print(*formats())
print(len(render(diagnosis)))
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of `command`, which must succeed."""
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    process = subprocess.run(command, cwd=cwd, env=clean | environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, f"{command}\n{process.stdout}\n{process.stderr}"
    return process.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of this checkout, and the wheel built from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def test_sdist_contains_the_package_and_no_stray_files(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    top = {name.partition("/")[0] for name in names}
    assert top == {
        ".gitignore",
        "CHANGELOG.md",
        "LICENSE",
        "PKG-INFO",
        "README.md",
        "postmortem",
        "pyproject.toml",
        "templates",
    }
    assert not [name for name in names if ".venv" in name or name.endswith(".pyc") or "site-packages" in name]


def test_wheel_contains_package_templates_and_commands(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
        commands = archive.read(f"{info}/entry_points.txt").decode()
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "postmortem").rglob("*.py")}
    assert sources <= names
    assert {f"postmortem/templates/{name}" for name in TEMPLATES} <= names
    assert "postmortem/py.typed" in names
    assert {name.partition("/")[0] for name in names} == {"postmortem", info}
    assert "postmortem = postmortem.__main__:main" in commands
    assert "runs-diff = postmortem.__main__:runs_diff" in commands
    assert info == f"training_postmortem-{postmortem.__version__}.dist-info"


def test_wheel_renders_a_report_far_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        target,
        wheel,
        cwd=tmp_path,
    )
    where, formats, length = run(sys.executable, "-c", PROBE, cwd=tmp_path, PYTHONPATH=str(target)).splitlines()
    assert Path(where).is_relative_to(target)
    assert "md" in formats.split()
    assert int(length) > 100


def test_editable_install_renders_a_report(tmp_path: Path) -> None:
    checkout, environment = tmp_path / "checkout", tmp_path / "venv"
    checkout.mkdir()
    for name in ("postmortem", "templates"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, checkout)
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    library = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    # The dependencies come from this environment: one level only, so that its own editable install is not visible.
    (library / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--editable",
        checkout,
        cwd=tmp_path,
    )
    where, formats, length = run(python, "-c", PROBE, cwd=tmp_path).splitlines()
    assert Path(where).is_relative_to(checkout)
    assert "md" in formats.split()
    assert int(length) > 100
    assert (environment / "bin" / "postmortem").exists()
