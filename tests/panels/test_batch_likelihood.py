"""Panel 11 on the token ids of the suspect batch: whether they are like random tokens, or rare ones, or as usual."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from postmortem.diagnosis import Incident
from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.makers import SPIKE, STEPS, healthy, healthy_batches, write_run

KEPT = range(SPIKE - 64, SPIKE + 17)  # the batches whose ids a recorder keeps
SAMPLES, LENGTH = 8, 24
SEEN = {"data.unlikely", "data.likely", "data.excess_tokens"}


@cache
def text(vocabulary: int, seed: int, order: int = 1) -> np.ndarray:
    """Token ids, int64[81 · 8, 24]: each token has four usual followers, and ids are used by Zipf's law."""
    rng = np.random.default_rng(seed)
    law = 1 / (np.arange(vocabulary) + 2.0)
    law /= law.sum()
    followers = rng.choice(vocabulary, (vocabulary, 4), p=law)
    samples = len(KEPT) * SAMPLES
    ids = np.empty((samples, LENGTH), np.int64)
    ids[:, 0] = rng.choice(vocabulary, samples, p=law)
    for place in range(1, LENGTH):
        usual = followers[ids[:, place - 1], rng.integers(4, size=samples)] if order else ids[:, 0]
        other = rng.choice(vocabulary, samples, p=law)
        ids[:, place] = np.where(rng.random(samples) < (0.9 if order else 0.0), usual, other)
    return ids


def batches(ids: np.ndarray, here: np.ndarray | None = None, rows: int = 1) -> list[Any]:
    """The column `token_ids` around the spike, with `here` instead of the ids of the suspect batch."""
    cells = ids.reshape(len(KEPT), SAMPLES, -1).copy()
    if here is not None:
        cells[SPIKE - KEPT.start : SPIKE - KEPT.start + rows, : here.shape[-2]] = here
    column: list[Any] = [None] * STEPS
    for step, cell in zip(KEPT, cells, strict=True):
        column[step] = cell.tolist()
    return column


def incident(folder: Path, token_ids: list[Any], **columns: list[Any]) -> Incident:
    """A jump of the loss and of the gradient norm, and nothing else that a plain loop would not log."""
    logged = {name: healthy()[name] for name in ("loss", "lr", "grad_norm")}
    logged["loss"][SPIKE] += 2
    logged["grad_norm"][SPIKE] *= 5
    hashes = {"batch_hash": healthy_batches()["batch_hash"], "token_ids": token_ids, **columns}
    return diagnose(open_run(write_run(folder / "run", logged, batches=hashes))).incidents[0]


def observed(incident: Incident) -> str | None:
    """Which of the observations on the ids the incident has."""
    return next((e.observation for e in incident.evidence if e.observation in SEEN), None)


def random_ids(vocabulary: int, seed: int, samples: int = SAMPLES) -> np.ndarray:
    return np.random.default_rng(seed).integers(vocabulary, size=(samples, LENGTH))


@pytest.mark.parametrize("vocabulary", [50, 1_000, 50_000])
@pytest.mark.parametrize("seed", [0, 1])
def test_random_tokens_are_garbage_though_they_contain_rare_ones(tmp_path: Path, vocabulary: int, seed: int) -> None:
    rare = [2] * STEPS
    rare[SPIKE] = 40
    seen = incident(tmp_path, batches(text(vocabulary, seed), random_ids(vocabulary, seed)), rare_tokens=rare)
    assert (observed(seen), seen.hypotheses[0].cause) == ("data.unlikely", "garbage_data")
    assert "data.rare_tokens" not in {e.observation for e in seen.evidence}


@pytest.mark.parametrize("vocabulary", [50, 1_000, 50_000])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_few_rare_ids_are_a_long_tail(tmp_path: Path, vocabulary: int, seed: int) -> None:
    ids = text(vocabulary, seed)
    rarest = np.argsort(np.bincount(ids.ravel(), minlength=vocabulary))[:2]
    rng = np.random.default_rng(seed)
    here = np.where(rng.random((SAMPLES, LENGTH)) < 0.2, rng.choice(rarest, (SAMPLES, LENGTH)), ids[:SAMPLES])
    seen = incident(tmp_path, batches(ids, here))
    assert seen.hypotheses[0].cause == "long_tail_tokens"
    assert observed(seen) in ("data.excess_tokens", None)  # None: most of its samples meet here, which says the same


@pytest.mark.parametrize("vocabulary", [50, 1_000])
@pytest.mark.parametrize("seed", range(6))
def test_a_batch_like_the_others_is_said_to_be_so(tmp_path: Path, vocabulary: int, seed: int) -> None:
    seen = incident(tmp_path, batches(text(vocabulary, seed)))
    assert observed(seen) == "data.likely"
    assert seen.hypotheses[0].cause not in ("garbage_data", "long_tail_tokens")


def test_one_bad_micro_batch_of_two_is_enough(tmp_path: Path) -> None:
    seen = incident(tmp_path, batches(text(64, 3), random_ids(64, 3, SAMPLES // 2)))
    assert (observed(seen), seen.hypotheses[0].cause) == ("data.unlikely", "garbage_data")


def test_a_bad_shard_of_several_batches_does_not_hide_itself(tmp_path: Path) -> None:
    seen = incident(tmp_path, batches(text(64, 3), random_ids(64, 3, 10 * SAMPLES).reshape(10, SAMPLES, LENGTH), 10))
    assert observed(seen) == "data.unlikely"


def test_where_every_batch_is_random_no_batch_stands_out(tmp_path: Path) -> None:
    """No text has been seen that random tokens would differ from."""
    uniform = np.random.default_rng(4).integers(64, size=(len(KEPT) * SAMPLES, LENGTH))
    assert observed(incident(tmp_path, batches(uniform))) is None


def test_another_text_that_stays_is_not_random(tmp_path: Path) -> None:
    """Another language from the onset on: its own batches make its tokens likely."""
    ids = text(64, 5).copy()
    ids[(SPIKE - KEPT.start) * SAMPLES :] = text(64, 6)[(SPIKE - KEPT.start) * SAMPLES :]
    assert observed(incident(tmp_path, batches(ids))) != "data.unlikely"


def test_languages_in_turn_are_usual(tmp_path: Path) -> None:
    """One sample in eight is of another language: a batch of that one alone is unusual, and not random."""
    ids = text(64, 5).copy()
    ids[::SAMPLES] = text(64, 6)[::SAMPLES]
    other = text(64, 6)[1 : SAMPLES + 1]
    assert observed(incident(tmp_path, batches(ids, other))) != "data.unlikely"


@pytest.mark.parametrize("kept", [0, 8, 18])
def test_few_batches_say_nothing(tmp_path: Path, kept: int) -> None:
    column = batches(text(64, 7), random_ids(64, 7))
    few = [cell if abs(step - SPIKE) <= kept // 2 else None for step, cell in enumerate(column)]
    assert observed(incident(tmp_path, few)) is None


@pytest.mark.parametrize(
    ("once_more", "spikes_again", "slug"),
    [
        (SPIKE - 100, False, "data.same_batch_harmless"),
        (SPIKE - 100, True, "data.same_batch_harmful"),
        (SPIKE + 120, True, "data.same_batch_harmful"),
        (5, False, None),  # a model that knows nothing yet cannot be harmed
    ],
)
def test_the_same_batch_in_another_epoch(tmp_path: Path, once_more: int, spikes_again: bool, slug: str | None) -> None:
    logged = {name: healthy()[name] for name in ("loss", "lr", "grad_norm")}
    hashes = healthy_batches()["batch_hash"]
    hashes[once_more] = hashes[SPIKE]
    logged["loss"][SPIKE] += 2
    if spikes_again:
        logged["loss"][once_more] += 2
    incidents = diagnose(open_run(write_run(tmp_path / "run", logged, batches={"batch_hash": hashes}))).incidents
    here = next(each for each in incidents if each.onset_step == SPIKE)
    same = [e for e in here.evidence if e.observation.startswith("data.same_batch")]
    assert [e.observation for e in same] == ([slug] if slug else [])
    assert all((e.weights.get("garbage_data", 0) > 0) == spikes_again for e in same)


@pytest.mark.parametrize("elsewhere", [8, 7])
def test_samples_that_were_harmless_in_another_epoch_are_no_garbage(tmp_path: Path, elsewhere: int) -> None:
    names = [[f"{step}-{sample}" for sample in range(8)] for step in range(STEPS)]
    for sample in range(elsewhere):  # each in a batch of its own, as after shuffling
        names[100 + 7 * sample][sample] = names[SPIKE][sample]
    seen = incident(tmp_path, [None] * STEPS, sample_ids=names)
    assert ("data.same_samples_harmless" in {e.observation for e in seen.evidence}) == (elsewhere == 8)


def test_samples_that_come_again_in_another_order_are_shown(tmp_path: Path) -> None:
    ids = text(64, 8)
    earlier = ids[20 * SAMPLES : 22 * SAMPLES][::2]
    seen = incident(tmp_path, batches(ids, earlier[np.random.default_rng(0).permutation(SAMPLES)]))
    (again,) = (e for e in seen.evidence if e.observation == "data.samples_again")
    assert "100 % of the samples were in the" in again.text and "batches before, usually 0 %" in again.text
    assert not again.weights, "it may be the border between two epochs"


def test_samples_that_always_come_again_show_nothing(tmp_path: Path) -> None:
    """A small corpus: an epoch is ten batches."""
    ids = np.tile(text(64, 8)[: 10 * SAMPLES], (9, 1))[: len(KEPT) * SAMPLES]
    seen = {e.observation for e in incident(tmp_path, batches(ids)).evidence}
    assert not {"data.samples_again", "data.periodic"} & seen


@pytest.mark.parametrize("period", [1, 3])
def test_periodic_tokens_are_shown(tmp_path: Path, period: int) -> None:
    """Padding has the period one."""
    ids = text(64, 9)
    here = np.concatenate([ids[:SAMPLES, :4], np.tile(ids[:SAMPLES, :period], 20 // period + 1)[:, :20]], 1)
    seen = incident(tmp_path, batches(ids, here))
    assert [e.observation for e in seen.evidence].count("data.periodic") == 1
    assert seen.hypotheses[0].cause != "garbage_data"
