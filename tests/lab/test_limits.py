"""What a run's config may ask the lab for, which is driven without --trust."""

from __future__ import annotations

import copy
import math
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from postmortem.errors import UsageError
from postmortem.lab import make_run
from postmortem.lab.config import default_config
from postmortem.lab.limits import check_size
from postmortem.lab.program import build

SIZES = ("model.width", "model.layers", "model.heads", "model.context")
SIZES += ("data.sentences", "data.shards", "data.vocab", "data.batch_size")
ODD: tuple[Any, ...] = (0, -1, 10**6, 10**15, 2**70, 1e300, math.inf, math.nan, 1.5, "32", None, True, [32])


def config_with(name: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(default_config(1, 100))
    section, _, key = name.partition(".")
    config[section][key] = value
    return config


def test_every_config_of_the_lab_is_within_the_limits() -> None:
    check_size(default_config(1, 2000))
    check_size(config_with("model.width", 256))


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", ODD, ids=repr)
def test_a_size_that_no_lab_run_has_is_refused_before_anything_is_allocated(name: str, value: Any) -> None:
    config = config_with(name, value)
    tracemalloc.start()
    with pytest.raises(UsageError, match=rf"config: {name} is .*(limit|whole number)"):
        build(config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_sizes_that_are_too_large_together_are_refused() -> None:
    config = config_with("model.width", 4096)
    config["model"]["layers"] = 64
    with pytest.raises(UsageError, match=r"config: model and batches would take [\d,.]+ GiB of memory; .* 1 GiB"):
        build(config)
    config = config_with("model.width", 1024)
    with pytest.raises(UsageError, match=r"config: a step would take .* operations"):
        build(config)


@pytest.mark.parametrize("batches", [10**6, 10**18])
def test_streams_that_are_too_long_are_refused(batches: int) -> None:
    config = config_with("data.batch_size", 8)
    config["data"]["streams"] = [{"name": "x", "first": 0, "batches": batches, "recipe": "b", "seed": 1, "share": 8}]
    with pytest.raises(UsageError, match=r"config: data.streams has \d+ samples"):
        build(config)


def test_a_part_that_is_missing_is_named() -> None:
    config = default_config(1, 100)
    del config["model"]
    with pytest.raises(UsageError, match=r"config: model\.width is None"):
        build(config)


@pytest.mark.parametrize("out", [".", "/", ""])
def test_a_run_needs_a_folder_with_a_name(out: str) -> None:
    with pytest.raises(UsageError, match="name a folder of its own"):
        make_run(Path(out), steps=1)
