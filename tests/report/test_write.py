"""The report's directory: whole, ours alone, and kind to what the person wrote."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from postmortem import atomic
from postmortem.diagnosis import PanelReading, load
from postmortem.errors import CannotWrite, UnreadableInput, UsageError
from postmortem.report import default_out, write_report
from tests.report.factory import clean, hostile, nan, several, spike

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(axes: Axes, reading: PanelReading) -> None:
    for trace in reading.traces:
        axes.plot(trace.step, trace.value, label=trace.name)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_report_is_text_json_and_pictures(tmp_path: Path) -> None:
    report = write_report(spike(), tmp_path / "new" / "out", draw=draw)
    found = contents(report.parent)
    pictures = {
        f"panels/{name}.png" for name in ("overview", "01-loss", "03-grad-norm", "04-activations", "07-token-loss")
    }
    assert set(found) == {"report.md", "diagnosis.json", *pictures}
    text = found["report.md"].decode()
    assert all(f"]({name})" in text for name in pictures)
    assert load(report.parent / "diagnosis.json").incidents[0].overview == "panels/overview.png"
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["out"]


def test_equal_diagnoses_give_equal_bytes(tmp_path: Path) -> None:
    one, two = (write_report(spike(), tmp_path / name, draw=draw).parent for name in ("a", "b"))
    assert contents(one) == contents(two)


def test_pictures_do_not_depend_on_the_persons_style(tmp_path: Path) -> None:
    import matplotlib

    one = write_report(spike(), tmp_path / "a", draw=draw).parent
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30}):
        two = write_report(spike(), tmp_path / "b", draw=draw).parent
    assert contents(one) == contents(two)


def test_no_incident_draws_the_loss_alone(tmp_path: Path) -> None:
    report = write_report(clean(), tmp_path / "out", draw=draw)
    assert [p.name for p in (report.parent / "panels").iterdir()] == ["01-loss.png"]
    assert "no incident" in report.read_text(encoding="utf-8")


def test_hostile_names_are_drawn_and_stay_in_their_folder(tmp_path: Path) -> None:
    i = hostile().incidents[0]
    loss = replace(i.panels[0], slug="../../" + "x" * 5, title="$\\frac{a$ {}", unit="$_$", moved=True)
    bad = replace(hostile(), incidents=(replace(i, panels=(loss, *i.panels[1:])),))
    write_report(bad, tmp_path / "out", draw=draw)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


@pytest.mark.heavy
@pytest.mark.parametrize("break_by", ["keep", "no marker", "no heading", "crlf", "not utf-8"])
def test_a_redraft_keeps_the_notes(tmp_path: Path, break_by: str) -> None:
    report = write_report(spike(), tmp_path / "out", draw=draw)
    mine = b"I think it was the shard.\n\n## Notes\n- again\n" + (b"\xff\n" if break_by == "not utf-8" else b"")
    text = report.read_bytes() + mine
    if break_by == "no marker":
        text = b"\n".join(line for line in text.split(b"\n") if not line.startswith(b"<!-- Yours"))
    elif break_by == "no heading":
        text = text.replace(b"## Notes\n", b"", 1)
    elif break_by == "crlf":
        text = text.replace(b"\n", b"\r\n")
        mine = mine.replace(b"\n", b"\r\n")
    report.write_bytes(text)
    write_report(nan(), tmp_path / "out", draw=draw)
    once = report.read_bytes()
    assert b"did not recover" in once and once.endswith(mine) and once.count(b"<!-- Yours") == 1
    write_report(nan(), tmp_path / "out", draw=draw)
    assert report.read_bytes() == once


def test_a_redraft_removes_only_its_own_pictures(tmp_path: Path) -> None:
    out = write_report(spike(), tmp_path / "out", draw=draw).parent
    (out / "panels" / "mine.png").write_bytes(b"mine")
    (out / "replays").mkdir()
    (out / "replays" / "r0.json").write_text("{}")
    write_report(clean(), out, draw=draw)
    assert sorted(contents(out)) == [
        "diagnosis.json",
        "panels/01-loss.png",
        "panels/mine.png",
        "replays/r0.json",
        "report.md",
    ]


def test_a_forged_diagnosis_removes_nothing_outside(tmp_path: Path) -> None:
    out = write_report(spike(), tmp_path / "out", draw=draw).parent
    (tmp_path / "precious.png").write_bytes(b"x")
    raw = json.loads((out / "diagnosis.json").read_text())
    raw["incidents"][0]["overview"] = "panels/../../precious.png"
    (out / "diagnosis.json").write_text(json.dumps(raw))
    write_report(clean(), out, draw=draw)
    assert (tmp_path / "precious.png").exists()


def test_a_directory_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.md").write_text("years of work")
    with pytest.raises(UsageError, match="not an earlier report"):
        write_report(spike(), tmp_path, draw=draw)
    assert contents(tmp_path) == {"thesis.md": b"years of work"}
    with pytest.raises(UsageError, match="is a file"):
        write_report(spike(), tmp_path / "thesis.md", draw=draw)


def test_symbolic_links_are_not_written_through(tmp_path: Path) -> None:
    out = write_report(spike(), tmp_path / "out", draw=draw).parent
    target = tmp_path / "target.md"
    target.write_text("mine")
    (out / "report.md").unlink()
    (out / "report.md").symlink_to(target)
    with pytest.raises(UsageError, match="symbolic link"):
        write_report(spike(), out, draw=draw)
    assert target.read_text() == "mine"


@pytest.mark.parametrize("earlier", [False, True])
def test_a_failure_leaves_everything_as_it_was(tmp_path: Path, earlier: bool) -> None:
    out = tmp_path / "out"
    if earlier:
        write_report(spike(), out, draw=draw)
    before = contents(tmp_path)

    def broken(axes: Axes, reading: PanelReading) -> None:
        raise RuntimeError("a panel that cannot draw")

    with pytest.raises(RuntimeError):
        write_report(nan(), out, draw=broken)
    assert contents(tmp_path) == before and not list(tmp_path.rglob("*.draft"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(CannotWrite, match="--out"):
        write_report(spike(), tmp_path / "out", draw=draw)


def killed(monkeypatch: pytest.MonkeyPatch, call: str, number: int, out: Path) -> None:
    """A draft of another process, which ends without a word at its call of that number of `atomic.<call>`."""
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        return
    original, calls = getattr(atomic, call), iter(range(1, 1000))

    def die(*words: object) -> object:
        return os._exit(9) if next(calls) == number else original(*words)

    try:
        monkeypatch.setattr(atomic, call, die)
        write_report(spike(), out, draw=lambda *_: None)
    finally:
        os._exit(1)  # neither pytest nor a clean-up may run twice


@pytest.mark.parametrize(
    ("before", "call", "number"),
    [
        *(("nothing", call, number) for call, number in (("_write", 1), ("_write", 3), ("_replace", 1))),
        *(("replays", call, number) for call, number in (("_write", 3), ("_replace", 1), ("_replace", 2))),
        *(("report", "_replace", number) for number in (1, 3, 4)),
    ],
)
def test_a_killed_draft_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, call: str, number: int
) -> None:
    out = tmp_path / "out"
    if before == "replays":
        (out / "replays").mkdir(parents=True)
    elif before == "report":
        write_report(nan(), out, draw=draw)
    killed(monkeypatch, call, number, out)
    assert list(tmp_path.rglob(".out.*.draft")), "nothing was cut short"
    assert write_report(spike(), out, draw=draw).is_file()
    assert not list(tmp_path.rglob(".*")) and len(contents(out / "panels")) == 5


def test_a_full_disk_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, "_write", full)
    with pytest.raises(CannotWrite, match=r"out: cannot be written \(No space left on device\)\. Free some space"):
        write_report(spike(), tmp_path / "out", draw=draw)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("special", ["a pipe", "a device"])
def test_a_report_that_is_no_file_is_not_read(tmp_path: Path, special: str) -> None:
    out = write_report(spike(), tmp_path / "out", draw=draw).parent
    (out / "report.md").unlink()
    if special == "a pipe":
        os.mkfifo(out / "report.md")
        with pytest.raises(UnreadableInput, match="no regular file"):
            write_report(spike(), out, draw=draw)
    else:
        (out / "report.md").symlink_to("/dev/zero")
        with pytest.raises(UsageError, match="symbolic link"):
            write_report(spike(), out, draw=draw)


def test_default_places(tmp_path: Path) -> None:
    assert default_out(tmp_path) == tmp_path / "postmortem"
    assert default_out(tmp_path / "metrics.csv") == tmp_path / "metrics.postmortem"


def test_the_chosen_incident_is_the_one_drawn(tmp_path: Path) -> None:
    out = write_report(several(), tmp_path / "out", draw=draw, incident=2).parent
    assert [bool(i.overview) for i in load(out / "diagnosis.json").incidents] == [False, True, False]
