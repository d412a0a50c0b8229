"""`draft --baseline`: what a sibling run made of the same batch, or at the same step, is evidence."""

from __future__ import annotations

from pathlib import Path

import pytest

from postmortem.diagnosis import Incident
from postmortem.pipeline import diagnose
from postmortem.record.writer import RunWriter
from postmortem.sources import open_run

SPIKE = 150


def written(path: Path, *, spike: int | None, hashes: str, rollback_to: int | None = None) -> Path:
    """A run of 300 steps, with a spike at a step; the batch of index i is called `hashes`i."""
    with RunWriter(path, {"id": path.name}) as run:
        run.event("run_start", 0)
        for step in range(300):
            _row(run, step, step, hashes, spiked=step == spike)
    if rollback_to is not None:
        with RunWriter(path, attempt=1) as run:
            run.event("rollback", rollback_to, to_step=rollback_to, attempt=1, skip=[[SPIKE, SPIKE + 50]])
            for step in range(rollback_to, 300):
                _row(run, step, step if step < SPIKE else step + 50, hashes, spiked=False)
    return path


def _row(run: RunWriter, step: int, index: int, hashes: str, *, spiked: bool) -> None:
    noise = 0.01 * ((step * 7919) % 13 - 6) / 6
    run.log(step, {"loss": 2.0 + noise + (3.0 if spiked else 0.0), "grad_norm": (1.0 + noise) * (9 if spiked else 1)})
    run.batch(step, {"batch_index": index, "batch_hash": f"{hashes}{index}"})


def observed(path: Path, other: Path | None) -> tuple[set[str], Incident]:
    found = diagnose(open_run(path), baseline=None if other is None else open_run(other)).incidents[0]
    return {e.observation for e in found.evidence if "baseline" in e.observation}, found


@pytest.mark.parametrize(
    ("spike", "hashes", "rollback_to", "slug"),
    [
        (None, "a", None, "data.baseline_harmless"),
        (SPIKE, "a", None, "data.baseline_harmful"),
        (SPIKE, "a", 100, "data.baseline_harmful"),  # in the stretch that it rolled back
        (SPIKE, "b", None, "state.baseline_same_step"),
        (None, "b", None, None),
    ],
)
def test_a_sibling_tells_data_from_state(
    tmp_path: Path, spike: int | None, hashes: str, rollback_to: int | None, slug: str | None
) -> None:
    run = written(tmp_path / "run", spike=SPIKE, hashes="a")
    sibling = written(tmp_path / "sibling", spike=spike, hashes=hashes, rollback_to=rollback_to)
    seen, found = observed(run, sibling)
    assert seen == ({slug} if slug else set())
    assert all("sibling" in e.text for e in found.evidence if e.observation in seen)


def test_without_a_sibling_nothing_is_said_of_one(tmp_path: Path) -> None:
    assert observed(written(tmp_path / "run", spike=SPIKE, hashes="a"), None)[0] == set()


def test_it_moves_the_ranking(tmp_path: Path) -> None:
    run = written(tmp_path / "run", spike=SPIKE, hashes="a")
    harmless, harmful = (written(tmp_path / name, spike=s, hashes="a") for name, s in (("calm", None), ("same", SPIKE)))
    scores = [
        {h.cause: h.score for h in observed(run, other)[1].hypotheses}["long_tail_tokens"]
        for other in (harmless, None, harmful)
    ]
    assert scores == sorted(scores) and scores[0] < scores[2]
