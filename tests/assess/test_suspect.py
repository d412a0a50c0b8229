"""From a cause to its replays: places are those of the incident."""

from __future__ import annotations

import pytest

from postmortem.assess.detection import detect
from postmortem.assess.suspect import AWAY, suspect_for
from postmortem.case import Case, Observation
from postmortem.causes import Cause, causes
from postmortem.change import Change
from postmortem.diagnosis import Prediction
from postmortem.interventions import build_intervention
from postmortem.sources import open_run
from tests.makers import worked_example

CAUSES = {cause.slug: cause for cause in causes()}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    run = open_run(worked_example(tmp_path_factory.mktemp("experiments") / "19-spike-001"))
    found = detect(run)
    return Case(run, found[0], found)


def seen(slug: str, step: int, *, strength: float = 1.0) -> dict[str, Observation]:
    return {slug: Observation(slug, "it is so", "lr", step, {}, strength)}


def predictions(case: Case, cause: Cause, seen: dict[str, Observation]) -> tuple[Prediction, ...]:
    return cause.predicts(suspect_for(case, cause, seen))


def changes(case: Case, slug: str, seen: dict[str, Observation]) -> list[str]:
    return [str(change) for one in predictions(case, CAUSES[slug], seen) for change in one.changes]


def remedy(case: Case, slug: str, seen: dict[str, Observation]) -> list[str] | None:
    found = CAUSES[slug].fix
    return None if found is None else [str(change) for change in found(suspect_for(case, CAUSES[slug], seen))]


@pytest.mark.parametrize("cause", CAUSES.values(), ids=CAUSES)
def test_every_change_of_every_cause_can_be_made_and_read_back(case: Case, cause: Cause) -> None:
    made = [change for one in predictions(case, cause, {}) for change in one.changes]
    made += cause.fix(suspect_for(case, cause, {})) if cause.fix else ()
    for change in made:
        assert build_intervention(change).text and Change.from_text(str(change)) == change


def test_the_window_is_what_the_cause_would_skip(case: Case) -> None:
    assert changes(case, "long_tail_tokens", {}) == ["mask=312:313", "replace=312:313", f"move=312:313@{313 + AWAY}"]
    assert remedy(case, "long_tail_tokens", {}) == ["skip=312:313"]


def test_garbage_reaches_as_far_as_its_source(case: Case) -> None:
    shard = Observation("data.new_source", "a new source", "source", 312, {"rows": 6}, 1.0)
    found = changes(case, "garbage_data", {shard.slug: shard})
    assert found[0] == "replace=312:318" and found[-1] == f"move=312:318@{318 + AWAY}"


def test_the_rate_is_smoothed_from_its_own_jump_on(case: Case) -> None:
    assert remedy(case, "lr_discontinuity", seen("lr.jump", 302)) == ["lr-smooth=302"]
    assert remedy(case, "lr_discontinuity", {}) == ["lr-smooth=312"]


def test_observations_against_a_cause_do_not_place_it(case: Case) -> None:
    assert remedy(case, "lr_discontinuity", seen("lr.smooth", 308)) == ["lr-smooth=312"]


def test_no_remedy_is_not_the_remedy_of_changing_nothing(case: Case) -> None:
    assert remedy(case, "benign", {}) is None
    assert remedy(case, "bit_flip", {}) == []
