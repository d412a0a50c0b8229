"""What a commit's message must be, and what is said where it is not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts.check_commit_message import SCISSORS, as_committed, faults, main

WHY = "\n\nIt was not there."


@pytest.mark.parametrize(
    "message",
    [
        f"Add a door{WHY}",
        f"Add a door{WHY}\n\nSigned-off-by: Ann <ann@example.org>",
        f"Feed the detectors row by row{WHY}",
        f"{'A' * 72}{WHY}",
        "Merge branch 'x'",
        f'Revert "{"A" * 72}"\n\nThis reverts commit 0123456.',
        f"Écrire en français{WHY}",
    ],
)
def test_a_good_message_has_no_faults(message: str) -> None:
    assert not faults(message)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (f"add a door{WHY}", "capital"),
        (f"Add a door.{WHY}", "period"),
        (f"{'A' * 73}{WHY}", "73 characters"),
        (f"Added a door{WHY}", '"Added"'),
        (f"Adding a door{WHY}", '"Adding"'),
        ("Add a door", "no body"),
        ("Add a door\n\n\n", "no body"),
        ("Add a door\n\nSigned-off-by: Ann <ann@example.org>\nCo-authored-by: Bob <bob@example.org>", "no body"),
        ("Add a door\nIt was not there.", "no empty line"),
        (f"fixup! Add a door{WHY}", "squashed"),
        ("", "empty"),
    ],
)
def test_a_fault_is_named(message: str, said: str) -> None:
    assert [fault for fault in faults(message) if said in fault]


def test_every_fault_is_named_at_once() -> None:
    assert len(faults("added a door.")) == 4


def test_comments_and_the_diff_of_a_verbose_commit_are_no_message() -> None:
    text = f"Add a door\n\nIt was not there.  \n# Please enter\n{SCISSORS}\ndiff --git a b\n"
    assert as_committed(text) == "Add a door\n\nIt was not there."


@pytest.mark.parametrize("text", [f"Add a door{WHY}\n", "fixup! Add a door\n", "# nothing: git gives up by itself\n"])
def test_the_hook_lets_pass(text: str, tmp_path: Path) -> None:
    (tmp_path / "message").write_text(text)
    main([str(tmp_path / "message")])


def test_the_hook_says_why_it_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "message").write_text("Add a door.\n# comment\n")
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path / "message")])
    assert end.value.code == 1
    period, body = capsys.readouterr().err.splitlines()
    assert period == "this commit (Add a door.): the subject ends in a period"
    assert body.startswith("this commit (Add a door.): there is no body")


@pytest.mark.processes
def test_a_range_is_judged_commit_by_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def git(*words: str) -> None:
        who = ("-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(("git", *who, *words), cwd=tmp_path, check=True, capture_output=True)

    git("init", "--initial-branch=main")
    for message in (f"Begin{WHY}", f"Add a door{WHY}\n\n#12 asked for it.", "add a window", "fixup! Add a door"):
        git("commit", "--allow-empty", "-m", message, "--cleanup=verbatim")
    git("checkout", "-q", "-b", "other", "main~1")
    git("commit", "--allow-empty", "-m", f"Add a roof{WHY}")
    git("merge", "--no-ff", "-m", "merge it", "main")
    monkeypatch.chdir(tmp_path)
    main(["--range", "main~3..main~2"])
    with pytest.raises(SystemExit):
        main(["--range", "main~3..other"])
    capital, body, waits = (line.partition(" ")[2] for line in capsys.readouterr().err.splitlines())
    assert capital == "(add a window): the subject does not begin with a capital letter"
    assert body.startswith("(add a window): there is no body")
    assert waits == "(fixup! Add a door): it waits to be squashed"
    with pytest.raises(SystemExit, match="git cannot list"):
        main(["--range", "no-such..main"])
