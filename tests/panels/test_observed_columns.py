"""Every observation names the column that it read, and no other: with each column in turn absent, NaN, or moved."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from postmortem.assess.symptoms import summary
from postmortem.case import Case, Observation
from postmortem.causes import causes
from postmortem.panels import panels
from postmortem.pipeline import detect
from postmortem.sources import open_run
from tests.makers import STEPS, healthy, healthy_batches, noise, write_run

AT = 300
OF_THE_RUN = {  # read from the journal, from run.json or from another run, which are no columns
    "state.resumed",
    "state.no_resume",
    "state.config_change",
    "state.baseline_same_step",
    "numerics.half",
    "numerics.wide_range",
}
DAMAGE = {"nan_propagation", "fp16_overflow", "empty_labels", "bit_flip"}  # causes of values that are not finite


def every_column() -> dict[str, np.ndarray]:
    """A healthy run in which every numeric column of the panels is logged, and moves by noise only."""
    more = {
        "clip_threshold": 1.0 + noise(1e-3, seed=20),
        "grad_norm/embedding": 0.3 * np.exp(noise(0.05, seed=21)),
        "grad_norm/layer0": 0.4 * np.exp(noise(0.05, seed=22)),
        "act_max/layer0": 9.0 + noise(0.1, seed=23),
        "param_norm/embedding": 8 + 1e-3 * np.arange(STEPS) + noise(1e-4, seed=24),
        "dead_frac/layer0": 0.1 + noise(0.002, seed=25),
        "token_loss_p90": 3.0 + noise(0.05, seed=26),
        "g2_over_v": 1.0 + noise(0.02, seed=27),
        "loss_scale": np.full(STEPS, 65536.0),
        "skipped": np.zeros(STEPS),
        "nonfinite_count": np.zeros(STEPS),
        "max_attention_logit": 20 + noise(0.3, seed=28),
        "log_z": 6 + noise(0.05, seed=29),
        "step_time_s": 0.5 + noise(0.01, seed=30),
        "loss/rank0": healthy()["loss"] + noise(0.01, seed=31),
        "loss/rank1": healthy()["loss"] + noise(0.01, seed=32),
        "eval_loss": healthy()["loss"] + noise(0.02, seed=33),
    }
    return {**healthy(), **more}


COUNTED = ("valid_labels", "rare_tokens", "tokens", "repeated_ngram_tokens")
NAMES = [*every_column(), *COUNTED]


def made(folder: Path, edit: Mapping[str, Any], without: str = "", opener: str = "max_output_logit") -> list[Case]:
    """The cases of a healthy run after `edit`; where nothing else opens an incident, `opener` is NaN from AT on."""
    columns, batches = every_column(), healthy_batches()
    batches["repeated_ngram_tokens"] = np.random.default_rng(12).poisson(3, STEPS).tolist()
    columns[opener] = columns.get(opener, 12 + noise(0.2, seed=40))
    columns[opener][AT : AT + 3] = np.nan
    for name, value in edit.items():
        (batches if name in batches else columns)[name] = value
    for name in without.split():
        columns.pop(name, None)
        batches.pop(name, None)
    run = open_run(write_run(folder / "run", columns, batches=batches))
    found = detect(run)
    return [Case(run, incident, found) for incident in found]


def observed(case: Case) -> Iterator[Observation]:
    for panel in panels():
        yield from panel.read(case)[1]


def value_of(name: str) -> np.ndarray:
    columns = every_column()
    return (
        columns[name].copy() if name in columns else np.asarray(healthy_batches().get(name, np.full(STEPS, 3)), float)
    )


def mentioned(text: str) -> set[str]:
    """The columns that a text names: literally, or in words (`batch hash`, `gradient norm`, `learning rate`)."""
    found: set[str] = set()
    words = {"gradient norm": "grad_norm", "learning rate": "lr", "loss scale": "loss_scale"}
    spoken = {name: name for name in (*NAMES, "batch_hash", "source", "max_output_logit")}
    spoken |= {name.replace("_", " "): name for name in spoken} | words
    for phrase in sorted(spoken, key=len, reverse=True):  # the longest first: loss_scale is not loss
        pattern = rf"(?<![\w/]){re.escape(phrase)}(?![\w/])"
        if re.search(pattern, text):
            found.add(spoken[phrase])
            text = re.sub(pattern, " ", text)
    return found


def check_names(case: Case) -> None:
    for o in observed(case):
        if o.slug in OF_THE_RUN:
            assert not o.column
            continue
        assert o.column in case.run.columns, o
        assert o.column in mentioned(o.text), o
        if o.slug != "loss.alone":  # it names its witnesses
            assert mentioned(o.text) <= {*case.run.columns}, o
    if "loss" not in case.run.columns:
        assert "the loss" not in summary(case)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_said_of_a_column_that_is_not_logged(name: str, tmp_path: Path) -> None:
    cases = made(tmp_path, {}, without=name)
    assert cases
    for case in cases:
        check_names(case)
        assert name not in {found for o in observed(case) for found in mentioned(o.text)}


@pytest.mark.parametrize("name", NAMES)
def test_a_column_that_is_nan_did_not_stay_flat_and_favors_no_cause_of_a_size(name: str, tmp_path: Path) -> None:
    value = value_of(name)
    value[AT : AT + 3] = np.nan
    cases = made(tmp_path, {name: value})
    assert cases
    weights = {cause.slug: cause.weights for cause in causes()}
    for case in cases:
        check_names(case)
        for o in observed(case):
            if o.column == name:
                assert o.moved, o
                assert "nan" not in o.text.replace("nonfinite", ""), o
                favored = {cause for cause in weights if weights[cause].get(o.slug, 0.0) > 0.3}
                assert favored <= DAMAGE, (o, favored)
            for figure in o.figures.values():
                assert o.column != name or not isinstance(figure, float) or np.isfinite(figure), o


@pytest.mark.parametrize("name", NAMES)
def test_what_moved_is_the_column_that_moved(name: str, tmp_path: Path) -> None:
    value = value_of(name)
    value[AT : AT + 3] = 1 if not value.any() else 8 * value[AT : AT + 3]
    cases = made(tmp_path, {name: value})
    assert cases
    for case in cases:
        check_names(case)
        for o in observed(case):
            if o.moved and o.slug not in OF_THE_RUN:
                assert o.column in (name, "max_output_logit"), o


def test_a_gradient_norm_without_a_loss_is_not_non_finite_together_with_it(tmp_path: Path) -> None:
    norm = value_of("grad_norm")
    norm[AT:] = np.nan
    case = made(tmp_path, {"grad_norm": norm}, without="loss")[0]
    text = next(o.text for o in observed(case) if o.slug == "grad_norm.nonfinite")
    assert "loss" not in text
    assert case.incident.title == "non-finite grad_norm"


def test_a_parameter_that_jumps_where_nothing_bounds_its_update_is_not_called_unprovoked(tmp_path: Path) -> None:
    norm = value_of("param_norm")
    norm[AT:] += 30
    bounds = "grad_norm update_rms clip_threshold adam_m_norm adam_v_norm g2_over_v optimizer_step"
    slugs = {o.slug for case in made(tmp_path, {"param_norm": norm}, without=bounds) for o in observed(case)}
    assert "weights.jump_alone" in slugs
    assert not slugs & {"weights.unprovoked_jump", "weights.jump"}


def test_a_column_that_stops_at_the_onset_is_not_called_flat(tmp_path: Path) -> None:
    """The trainer computes no gradient of a NaN loss: the row before the onset says nothing of it."""
    loss, norm = value_of("loss"), value_of("grad_norm").astype(object)
    loss[AT:], norm[AT:] = np.nan, None
    slugs = {o.slug for case in made(tmp_path, {"loss": loss, "grad_norm": norm}) for o in observed(case)}
    assert "loss.stays_nonfinite" in slugs
    assert not any(slug.startswith("grad_norm.") and slug != "grad_norm.part_nonfinite" for slug in slugs)
