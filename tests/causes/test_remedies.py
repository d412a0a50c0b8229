"""Remedies and lessons of every cause agree: what is refused is not advised, and the lesson follows from a remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from postmortem.assess.detection import detect
from postmortem.assess.wording import cautious_remedies, fact_without_cause, lesson
from postmortem.case import Case
from postmortem.causes import Cause, causes
from postmortem.causes._remedies import lower_clip, roll_back
from postmortem.diagnosis import Remedy
from postmortem.sources import open_run
from tests.makers import STEPS, healthy, worked_example, write_checkpoints, write_run

SMALL = {"a", "an", "the", "and", "or", "of", "in", "to", "with", "from", "it", "is", "at"}
ADVICE = {
    *("act", "alarm", "assert", "check", "clip", "count", "divide", "hash", "lengthen", "log", "measure", "never"),
    *("replace", "save", "stratify", "test", "use", "warm", "watch", "write"),
}
"""Verbs with which advice begins, beside those of the remedies."""


def case_of(run: Path) -> Case:
    opened = open_run(run)
    incidents = detect(opened)
    return Case(opened, incidents[0], incidents)


def saved(run: Path) -> Path:
    write_checkpoints(run, {200: 1.0})
    return run


def clipped(run: Path, threshold: float) -> Path:
    """A run with one spike, whose usual norm is 0.6."""
    columns = healthy()
    columns["loss"][312:320] += 3
    columns["grad_norm"][312] = 47.2
    return write_run(run, columns | {"clip_threshold": np.full(STEPS, threshold)})


def diverged(run: Path, **columns: np.ndarray) -> Path:
    loss = healthy()["loss"]
    loss[300:] = np.nan
    return write_run(run, {"loss": loss, **columns})


RUNS: dict[str, Callable[[Path], Path]] = {
    "the worked example": worked_example,
    "with a checkpoint": lambda run: saved(worked_example(run)),
    "a clip that is engaged": lambda run: clipped(run, 0.5),
    "a clip that is not engaged": lambda run: clipped(run, 100.0),
    "diverged": diverged,
    "diverged, with rates": lambda run: diverged(run, lr=np.full(STEPS, 3e-4)),
    "diverged, with a checkpoint": lambda run: saved(diverged(run)),
}


@pytest.fixture(scope="module", params=RUNS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case_of(RUNS[request.param](tmp_path_factory.mktemp("remedies") / "run"))


def words(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z]+", text.lower()) if word not in SMALL]


def without_cause(case: Case, cause: Cause | None) -> tuple[Remedy, ...]:
    return cautious_remedies(case, cause, case.batch_window())


def answers(case: Case) -> list[tuple[str, str, tuple[Remedy, ...]]]:
    """(cause, fact, §5) for each cause, and for none."""
    known = [(cause.slug, cause.lesson, cause.remedies(case, {})) for cause in causes()]
    unknown = [
        (f"not {cause.slug if cause else 'any'}", fact_without_cause(case), without_cause(case, cause))
        for cause in (None, *causes())
    ]
    return known + unknown


def test_the_lesson_is_the_fact_and_a_remedy_of_section_5(case: Case) -> None:
    for slug, fact, remedies in answers(case):
        text = lesson(fact, remedies)
        if not fact:
            assert not text and slug.startswith("not "), slug
            continue
        assert text.startswith(f"{fact}: "), slug
        advice = text.removeprefix(f"{fact}: ")
        assert advice.lower() in [remedy.text.lower() for remedy in remedies if not remedy.declined], slug
        assert fact.count(":") == 0 and text.endswith(".") and "\n" not in text, slug


def test_nothing_refused_is_advised(case: Case) -> None:
    """All words of what is refused, in a remedy beside it or in the lesson, are advice to do it."""
    for slug, fact, remedies in answers(case):
        texts = [lesson(fact, remedies), *(remedy.text for remedy in remedies if not remedy.declined)]
        for refused in (remedy.text for remedy in remedies if remedy.declined):
            for text in texts:
                assert not set(words(refused)) <= set(words(text)), (slug, refused, text)


def test_what_is_refused_is_refused_with_a_reason_and_the_rest_has_its_cost(case: Case) -> None:
    for slug, _, remedies in answers(case):
        assert all(bool(remedy.declined) != bool(remedy.side_effect) or remedy.declined for remedy in remedies), slug
        assert not remedies[0].declined, slug


@pytest.mark.parametrize("cause", causes(), ids=lambda cause: cause.slug)
def test_the_fact_of_a_lesson_advises_nothing(cause: Cause, tmp_path: Path) -> None:
    """Advice in it would stand beside section 5, which may refuse it."""
    remedies = cause.remedies(case_of(worked_example(tmp_path / "run")), {})
    verbs = ADVICE | {words(remedy.text)[0] for remedy in remedies}
    clauses = re.split(r"[:;,.]| and | or | above all ", cause.lesson)
    assert not [clause for clause in clauses if verbs & set(clause.lower().split()[:1])]
    assert not cause.lesson.endswith(".") and len(cause.lesson) < 120


def test_clipping_is_advised_or_refused_by_the_steps_of_the_run(tmp_path: Path) -> None:
    engaged = lower_clip(case_of(clipped(tmp_path / "a", 0.5)))
    assert engaged.declined and engaged.text == "Lower the clip threshold of 0.5."
    assert lower_clip(case_of(clipped(tmp_path / "b", 100.0))).text.startswith(
        "Lower the clip threshold from 100 to 1.2"
    )


def too_late(run: Path) -> Path:
    write_checkpoints(run, {400: 1.0})
    return run


def test_where_no_checkpoint_is_known_it_is_the_last_of_the_user(tmp_path: Path) -> None:
    """A log that names no checkpoint does not show that there is none."""
    remedy = roll_back(case_of(diverged(tmp_path / "run")), "replay with this check")
    assert remedy.text == (
        "Use your last checkpoint from before step 300, and replay with this check: none is visible to this log."
    )
    assert "scratch" not in remedy.text + remedy.side_effect


class TestRestart:
    """Where the checkpoints of the run do not reach back before the damage."""

    def test_names_half_of_the_rate_at_the_onset(self, tmp_path: Path) -> None:
        rates = np.full(STEPS, 5e-3)
        rates[280:310], rates[299:302] = 3e-3, np.inf
        remedy = roll_back(case_of(too_late(diverged(tmp_path / "run", lr=rates))), "replay with this check")
        assert remedy.text == (
            "Restart from scratch (replay with this check), with a lower peak learning rate (0.0015 instead of 0.003 "
            "at the onset): there is no checkpoint from before the onset."
        )

    @pytest.mark.parametrize("rates", [{}, {"lr": np.zeros(STEPS)}, {"lr": np.full(STEPS, np.nan)}])
    def test_without_a_rate_in_the_log_there_is_no_figure(self, tmp_path: Path, rates: dict[str, np.ndarray]) -> None:
        remedy = roll_back(case_of(too_late(diverged(tmp_path / "run", **rates))))
        assert remedy.text.startswith("Restart from scratch, with a lower peak learning rate: there is no checkpoint")

    def test_with_a_checkpoint_there_is_none(self, tmp_path: Path) -> None:
        text = roll_back(case_of(saved(diverged(tmp_path / "run"))), "replay with this check").text
        assert text.startswith("Revert to the checkpoint at step 200") and "learning rate" not in text

    def test_causes_that_do_not_concern_the_rate_do_not_change_it(self, tmp_path: Path) -> None:
        case = case_of(too_late(diverged(tmp_path / "run", lr=np.full(STEPS, 3e-4))))
        restarts = {
            cause.slug: remedy.text
            for cause in causes()
            for remedy in cause.remedies(case, {})
            if remedy.text.startswith("Restart from scratch")
        }
        assert {slug for slug, text in restarts.items() if "0.00015 instead of 0.0003" in text} == {"nan_propagation"}
        assert set(restarts) > {"empty_labels", "lr_discontinuity", "optimizer_reset", "bit_flip"}
        (unknown, *_) = without_cause(case, None)
        assert "0.00015 instead of 0.0003" in unknown.text
