"""Panel 11 on the tokens of the suspect batch: their count, and one rare token whose samples meet in this batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from postmortem.diagnosis import Incident
from postmortem.pipeline import diagnose
from postmortem.sources import open_run
from tests.makers import SPIKE, STEPS, TTEN, healthy, healthy_batches, worked_example, write_run

WORST = tuple(f"worst_token_{part}" for part in ("ids", "losses", "rows", "cols"))
QUANTILES = ("token_loss_p50", "token_loss_p99", "token_loss_max")


def without(root: Path, *columns: str) -> Path:
    for table in ("metrics", "batches"):
        part = root / table / "part-000000.parquet"
        rows = pq.read_table(part)
        pq.write_table(rows.drop_columns([name for name in columns if name in rows.column_names]), part)
    return root


def worst(root: Path) -> Incident:
    return diagnose(open_run(root)).incidents[0]


def of_data(incident: Incident) -> dict[str, Any]:
    return {e.observation: e for e in incident.evidence if e.panel == 11}


def counted(folder: Path, usual: list[int], here: int) -> dict[str, Any]:
    columns, batches = healthy(), healthy_batches()
    columns["loss"][SPIKE : SPIKE + 20] += 2
    batches["rare_tokens"] = [usual[i % len(usual)] for i in range(STEPS)]
    batches["rare_tokens"][SPIKE] = here
    return of_data(worst(write_run(folder / "run", columns, batches=batches)))


@pytest.mark.parametrize(
    ("usual", "here", "slug"),
    [
        ([0], 3, "rare_tokens"),
        ([1], 3, "rare_tokens_unclear"),
        ([0, 1], 3, "rare_tokens_unclear"),
        ([4, 5, 6], 8, "rare_tokens_unclear"),
        ([1], 1, "rare_tokens_normal"),
        ([4, 5, 6], 6, "rare_tokens_normal"),
        ([1], 9, "rare_tokens"),
        ([0, 0, 0, 30], 9, "rare_tokens_unclear"),  # bursts are usual here
    ],
)
def test_a_count_between_usual_and_raised_says_nothing(tmp_path: Path, usual: list[int], here: int, slug: str) -> None:
    seen = counted(tmp_path, usual, here)
    assert {name for name in seen if name.startswith("data.rare")} == {f"data.{slug}"}
    assert ("long_tail_tokens" in seen[f"data.{slug}"].weights) == (slug != "rare_tokens_unclear")


def test_a_batch_that_holds_most_samples_with_a_rare_token(tmp_path: Path) -> None:
    found = worst(worked_example(tmp_path / "run"))
    seen = of_data(found)["data.concentrated_token"]
    figures = dict(seen.figures)
    assert (figures["token"], figures["held"], figures["known"], figures["share"]) == (TTEN, 3, 5, pytest.approx(0.6))
    assert "“tten” is in 3 of the 8 samples of the batch, but in only 5 of all 240 in the log" in seen.text
    assert seen.weights["long_tail_tokens"] > 2
    tokens = next(s for s in found.symptoms if s.key == "unusual_tokens")
    assert "none unusual" not in tokens.text and "3 of the 5 samples" in tokens.text


@pytest.mark.parametrize(
    "missing",
    [(), ("sample_ids",), ("rare_tokens",), WORST, QUANTILES, (*QUANTILES, *WORST), ("token_ids", *WORST)],
    ids=lambda names: " ".join(names) or "all logged",
)
def test_the_worked_example_is_diagnosed_with_less_of_its_log(tmp_path: Path, missing: tuple[str, ...]) -> None:
    found = worst(without(worked_example(tmp_path / "run"), *missing))
    assert (found.hypotheses[0].cause, found.verdict) == ("long_tail_tokens", "supported")


def test_with_neither_histogram_nor_token_ids_it_abstains(tmp_path: Path) -> None:
    found = worst(without(worked_example(tmp_path / "run"), *QUANTILES, *WORST, "token_ids"))
    assert found.verdict == "undecided"


def tokens_of(folder: Path, token_ids: list[Any]) -> dict[str, Any]:
    columns, batches = healthy(), healthy_batches()
    columns["loss"][SPIKE : SPIKE + 20] += 2
    return of_data(worst(write_run(folder / "run", columns, batches=batches | {"token_ids": token_ids})))


def test_a_batch_at_random_concentrates_nothing(tmp_path: Path) -> None:
    ranks = np.random.default_rng(5).zipf(1.3, (STEPS, 8, 16)) % 5_000
    seen = tokens_of(tmp_path, ranks.tolist())
    assert "data.spread_tokens" in seen and "data.concentrated_token" not in seen


def test_a_corpus_whose_batches_all_concentrate_tokens_shows_nothing(tmp_path: Path) -> None:
    """Documents in their order: each batch has words of its own."""
    ids = np.random.default_rng(5).integers(0, 50, (STEPS, 8, 16))
    ids[:, :3, 0] = 100 + np.arange(STEPS)[:, None]
    assert "data.concentrated_token" not in tokens_of(tmp_path, ids.tolist())


def test_few_batches_do_not_show_a_corpus(tmp_path: Path) -> None:
    ids: list[Any] = np.random.default_rng(5).integers(0, 50, (STEPS, 8, 16)).tolist()
    few = [cell if abs(step - SPIKE) < 8 else None for step, cell in enumerate(ids)]
    assert not {"data.spread_tokens", "data.concentrated_token"} & {*tokens_of(tmp_path, few)}


@pytest.mark.parametrize("cell", [[], [[]], [[], [1]], [[None]], [["a"]], [1, 2, 3], [[-100, 2**62]], [[1], [1, [2]]]])
def test_whatever_a_log_has_in_its_token_ids_is_read(cell: Any) -> None:
    from postmortem.panels._batch_tokens import samples_of, tokens_of

    samples = [tokens_of(row) for row in samples_of(cell)]
    assert all(tokens is None or (tokens.ndim == 1 and tokens.size) for tokens in samples)
