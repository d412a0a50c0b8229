"""A run is called free of incidents only where one could have been seen; the reasons reach every reader."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from postmortem.assess import other_columns
from postmortem.detectors import FEWEST_LOSS_ROWS
from postmortem.diagnosis import OF_RUNS, Diagnosis, Verdict, load
from postmortem.pipeline import diagnose
from postmortem.report import render, summarize
from postmortem.report.wording import VERDICTS
from postmortem.sources import open_run
from postmortem.terminal_layout import joined
from tests.cli.conftest import Call, call, outside
from tests.makers import noise, write_run

__all__ = ["call", "outside"]
DOCS = Path(__file__).parents[2] / "docs" / "diagnosis.md"
ROWS = 200
LOSS = 2 + noise(0.02, ROWS, 1)
REWARD = 0.5 + noise(0.05, ROWS, 2)


def csv(path: Path, columns: Mapping[str, Any]) -> Path:
    rows = zip(*columns.values(), strict=True)
    lines = [f"{n}," + ",".join(map(str, row)) for n, row in enumerate(rows)]
    path.write_text("\n".join([",".join(["step", *columns]), *lines]) + "\n")
    return path


def broken(first: int, value: float = np.nan) -> np.ndarray:
    """A column that is `value` from row `first` on."""
    column = REWARD.copy()
    column[first:] = value
    return column


UNJUDGED = {
    "no loss": ({"policy": REWARD}, "among policy; name it: --map loss=policy"),
    "a likely loss": (
        {"lr": REWARD, "a": REWARD, "box_loss": LOSS, "cls_loss": LOSS[::-1]},
        "among box_loss, cls_loss, a, lr; name it: --map loss=",
    ),
    "a blank loss": ({"loss": [""] * ROWS, "lr": REWARD}, "loss has no value in any row"),
    "zeros": ({"loss": 0 * LOSS}, "loss is 0 in every row"),
    "twelve rows": ({"loss": LOSS[:12], "lr": REWARD[:12]}, "12 rows of loss were read, and the detectors need 13"),
    "one row": ({"loss": LOSS[:1]}, "1 row of loss was read"),
    "an unread NaN": ({"loss": LOSS, "kl": broken(150)}, "kl is NaN from step 150 to its end"),
    "an unread infinity": ({"loss": LOSS, "kl": broken(ROWS - 1, np.inf)}, "kl is inf from step 199 to its end"),
}


@pytest.mark.parametrize("name", UNJUDGED)
def test_it_is_said_everywhere_and_fails_a_check(name: str, call: Call, tmp_path: Path) -> None:
    columns, reason = UNJUDGED[name]
    log = csv(tmp_path / "log.csv", columns)
    code, out, _ = call("draft", log, "--check")
    assert code == 1 and out.startswith("log  not judged: ") and reason in out
    report = (tmp_path / "log.postmortem" / "report.md").read_text().replace("\\", "").replace("&lt;", "<")
    assert "**Verdict: not judged** — " in report and reason in report
    code, out, err = call("draft", log, "--check", "--json")
    written = json.loads(out)
    assert code == 1 and written["verdict"] == "not_judged" and reason in "; ".join(written["not_judged"])
    assert reason in err
    assert call("draft", log)[0] == 0, "only a check asks"


@pytest.mark.parametrize("rows", range(1, FEWEST_LOSS_ROWS + 2))
def test_the_rows_of_a_loss_are_counted(rows: int, tmp_path: Path) -> None:
    found = diagnose(open_run(csv(tmp_path / "log.csv", {"loss": LOSS[:rows], "reward": REWARD[:rows]})))
    assert found.verdict == ("not_judged" if rows < FEWEST_LOSS_ROWS else "no_incident")
    quiet = next(panel for panel in found.quiet_panels if panel.slug == "loss")
    assert ("nothing unusual" in quiet.summary) == (rows >= FEWEST_LOSS_ROWS)


SOUND = {
    "an evaluation loss alone": {"eval_loss": LOSS},
    "undefined now and then": {"loss": LOSS, "score": np.where(np.arange(ROWS) % 7, np.nan, REWARD)},
    "undefined at last as before": {"loss": LOSS, "score": np.where(np.arange(ROWS) % 50 > 40, np.nan, REWARD)},
    "never finite": {"loss": LOSS, "ppl": np.full(ROWS, np.inf)},
    "the machine": {"loss": LOSS, "gpu_mem": broken(150)},
    "finite again": {"loss": LOSS, "kl": np.where(np.arange(ROWS) == 100, np.nan, REWARD)},
}


@pytest.mark.parametrize("name", SOUND)
def test_what_was_judged_is_no_incident(name: str, tmp_path: Path) -> None:
    found = diagnose(open_run(csv(tmp_path / "log.csv", SOUND[name])))
    assert found.verdict == "no_incident" and found.not_judged == ()
    assert found.not_covered[0].startswith("the first 12 rows of ")


def test_what_a_verdict_does_not_cover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_columns, "MOST_COLUMNS", 2)
    evaluated = np.full(ROWS, "", object)
    evaluated[::100] = 2.0
    columns = {"loss": LOSS, "eval_loss": evaluated, **{f"c{n}": REWARD for n in range(5)}}
    found = diagnose(open_run(csv(tmp_path / "log.csv", columns)))
    assert found.not_covered == (
        "the first 12 rows of loss (through step 11) have no baseline, and only a blow-up is seen there",
        "eval_loss has only 2 rows",
        "3 further columns without a known meaning were not looked at",
    )
    assert "too few rows to judge: eval_loss (2 rows)" in render(found).replace("\\", "")


@pytest.mark.parametrize(
    ("columns", "judged"),
    [({"loss": LOSS[:60]}, False), ({"lr": REWARD}, False), ({"loss": LOSS, "kl": broken(9)}, True)],
)
def test_a_watchdog_without_a_baseline_gives_no_all_clear(
    tmp_path: Path, columns: dict[str, Any], judged: bool
) -> None:
    found = diagnose(open_run(csv(tmp_path / "log.csv", columns)), mode="watchdog")
    assert found.verdict == ("no_incident" if judged else "not_judged")
    assert bool(found.not_judged) != judged


def spiked(factor: float) -> np.ndarray:
    column = REWARD.copy()
    column[150:160] *= factor
    return column


def test_columns_that_nobody_understands_are_named_beside_an_incident(tmp_path: Path) -> None:
    loss = LOSS.copy()
    loss[150:160] += 3
    columns = {
        "loss": loss,
        "kl": spiked(12),
        "calm": REWARD,
        "seen": np.arange(ROWS) * spiked(1e3).clip(1, None).cumsum(),
        "gpu_mem": spiked(9),
    }
    incident = diagnose(open_run(csv(tmp_path / "log.csv", columns))).incidents[0]
    (moved,) = incident.other_moved
    assert moved.column == "kl" and moved.step in range(149, 163) and moved.value > 4 * moved.baseline > 0


def test_a_file_keeps_the_reasons(tmp_path: Path) -> None:
    found = diagnose(open_run(csv(tmp_path / "log.csv", {"kl": REWARD})))
    (tmp_path / "d.json").write_text(found.to_json())
    again: Diagnosis = load(tmp_path / "d.json")
    assert again == found and joined(summarize(again)[0]) == joined(summarize(found)[0])
    assert "not judged" in repr(again)


def test_a_run_that_has_just_begun_is_not_judged(tmp_path: Path) -> None:
    found = diagnose(open_run(write_run(tmp_path / "run", {"loss": LOSS[:3]})))
    assert found.verdict == "not_judged"


def test_every_verdict_has_words_and_is_documented() -> None:
    verdicts = set(get_args(Verdict))
    assert VERDICTS.keys() == verdicts and set(OF_RUNS) < verdicts
    row = next(line for line in DOCS.read_text().splitlines() if line.startswith("| `verdict` | of the run"))
    assert all(f"`{verdict}`" in row for verdict in verdicts)
