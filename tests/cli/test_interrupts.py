"""Ctrl-C at any moment of a command's life: exit code 130, and one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.samples import ROOT, sample

pytestmark = [pytest.mark.processes, pytest.mark.skipif(os.name == "nt", reason="sends SIGINT as a terminal does")]
SAMPLE = sample("19-spike-001")
CODE = """
import atexit, importlib, os, runpy, signal, sys

class Interrupter:
    '''Interrupts this process, once, when the module of this name is imported, in the way `how`.'''

    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            sys.meta_path.remove(self)
            globals()[HOW]()

def plainly():
    os.kill(os.getpid(), signal.SIGINT)

def as_another_error():
    try:
        plainly()
    except KeyboardInterrupt:
        raise ImportError("initialization failed")

def swallowed():
    try:
        plainly()
    except KeyboardInterrupt:
        pass

class Object:
    def __del__(self):
        plainly()

def in_a_destructor():
    Object()

def at_exit():
    atexit.register(plainly)

MODULE, HOW = sys.argv.pop(1), sys.argv.pop(1)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupter())
sys.argv[0] = "postmortem"
runpy.run_module("postmortem", run_name="__main__", alter_sys=True)
"""


def interrupted_at(module: str, how: str, folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CODE, module, how, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["postmortem.interrupt", "typer", "postmortem.cli.draft", "numpy", "matplotlib"])
def test_an_import_that_is_interrupted(module: str, tmp_path: Path) -> None:
    ended = interrupted_at(module, "plainly", tmp_path, "draft", SAMPLE, "--out", "out")
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr in ("postmortem: interrupted.\n", "")
    assert (ended.stderr == "") == (module == "postmortem.interrupt"), "only before all else is there no line"


@pytest.mark.parametrize("how", ["as_another_error", "swallowed", "in_a_destructor", "at_exit"])
@pytest.mark.parametrize("module", ["typer", "matplotlib"])
def test_what_a_library_makes_of_an_interrupt(how: str, module: str, tmp_path: Path) -> None:
    """`typer` is imported while the command starts, `matplotlib` while it works."""
    ended = interrupted_at(module, how, tmp_path, "draft", SAMPLE, "--out", "out")
    assert (ended.returncode, ended.stderr) == (130, "postmortem: interrupted.\n")


def test_a_command_that_ignores_interrupts_goes_on_doing_so(tmp_path: Path) -> None:
    """As under `nohup`, and in the background of a script."""
    code = CODE.replace("signal.default_int_handler", "signal.SIG_IGN")
    command = [sys.executable, "-c", code, "typer", "plainly", "explain", "bit_flip"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_importing_the_package_leaves_the_handler_alone() -> None:
    code = (
        "import signal, postmortem, postmortem.__main__, postmortem.interrupt, postmortem.cli\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.returncode == 0, ended.stderr


def test_a_file_that_a_driven_program_left_open_is_written(tmp_path: Path) -> None:
    """The process ends without taking the interpreter apart, which would close such files."""
    code = (
        f"import runpy, sys; log = open({str(tmp_path / 'log')!r}, 'w'); log.write('kept')\n"
        "sys.argv = ['postmortem', '--version']\n"
        "runpy.run_module('postmortem', run_name='__main__', alter_sys=True)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and (tmp_path / "log").read_text() == "kept"
