"""The view of a diagnosis: plain values, the same in whatever order they are read."""

from __future__ import annotations

import random
from dataclasses import is_dataclass, replace
from typing import Any

import pytest

from postmortem.change import Change
from postmortem.diagnosis import Diagnosis, Experiment, Sample, Token
from postmortem.report.build import report_view
from postmortem.report.render import render
from postmortem.report.select import select_incident
from postmortem.report.view import IncidentView, ReportView
from tests.report.factory import CASES, HOSTILE, clean, hostile, several, spike, undecided


def view(diagnosis: Diagnosis) -> ReportView:
    return report_view(diagnosis, select_incident(diagnosis, None))


def incident(diagnosis: Diagnosis) -> IncidentView:
    found = view(diagnosis).incident
    assert found is not None
    return found


def read(value: Any, order: random.Random) -> Any:
    """All attributes and items that there are below `value`, read in an order of their own each time."""
    if is_dataclass(value):
        names = [name for name in dir(value) if not name.startswith("_")]
        return {name: read(getattr(value, name), order) for name in order.sample(names, len(names))}
    if isinstance(value, tuple):
        return {n: read(value[n], order) for n in order.sample(range(len(value)), len(value))}
    return value


@pytest.mark.parametrize("name", CASES)
def test_the_order_of_reading_does_not_matter(name: str) -> None:
    case = CASES[name]()
    first = read(view(case), random.Random(0))
    for seed in range(1, 20):
        assert read(view(case), random.Random(seed)) == first


@pytest.mark.parametrize("name", CASES)
def test_values_are_plain(name: str) -> None:
    def check(value: Any) -> None:
        if isinstance(value, dict):
            for item in value.values():
                check(item)
        else:
            assert type(value) in (str, int, float, bool, type(None))

    check(read(view(CASES[name]()), random.Random(0)))


def test_text_is_as_it_was_written() -> None:
    shown = incident(hostile())
    assert view(hostile()).run_id == shown.summary == shown.checkpoint == shown.hypotheses[0].title == HOSTILE


def test_each_letter_is_explained_where_it_stands() -> None:
    shown = incident(spike())
    for lines, sources in (
        (shown.symptoms, shown.symptom_sources),
        (shown.evidence, shown.evidence_sources),
    ):
        assert {line.mark for line in lines} == {place.mark for file in sources for place in file.places}
    (first, *_) = shown.symptom_sources
    assert first.file.startswith("metrics/") and (first.places[0].kind, first.places[0].name) == ("column", "loss")
    assert [place.mark for place in first.places] == ["a", "b", "c"]


def test_more_origins_than_letters() -> None:
    base = spike().incidents[0]
    many = tuple(replace(base.symptoms[0], origin=f"m.csv, column c{n}") for n in range(28))
    shown = incident(replace(spike(), incidents=(replace(base, symptoms=many),)))
    assert [s.mark for s in shown.symptoms][::26] == ["a", "aa"] and shown.symptoms[27].mark == "bb"


def test_evidence_names_the_hypotheses_it_speaks_to() -> None:
    grad, embedding, *_ = incident(spike()).evidence
    assert (grad.favors, grad.rules_out, grad.weakens) == ((1,), (5,), (4,))
    assert grad.effect == "favors H1, counts against H5, weakens H4"
    assert (embedding.effect, embedding.text[-1]) == ("favors H1", "r")


@pytest.mark.parametrize(
    ("weight", "effect"),
    [
        (-0.5, "weakens H1"),
        (-1.5, "counts against H1"),
        (-2.9, "counts against H1"),
        (-3.0, "counts strongly against H1"),
    ],
)
def test_a_verb_is_as_strong_as_the_weight(weight: float, effect: str) -> None:
    base = spike().incidents[0]
    evidence = replace(base.evidence[0], weights={base.hypotheses[0].cause: weight})
    shown = incident(replace(spike(), incidents=(replace(base, evidence=(evidence,)),)))
    assert [(e.effect, e.rules_out) for e in shown.evidence] == [(effect, (1,) if weight <= -1.5 else ())]


def test_a_short_window_has_no_mean_of_fifty_rows() -> None:
    base = spike().incidents[0]
    assert base.verification is not None
    short = replace(base, verification=replace(base.verification, through_step=base.onset_step + 48))
    shown = incident(replace(spike(), incidents=(short,)))
    assert shown.verification is not None and shown.verification.expected.startswith("the mean of the loss must")


def test_hypotheses_worth_a_line_and_others() -> None:
    shown = incident(spike())
    assert [h.number for h in shown.hypotheses] == [1, 2, 3] and not shown.others
    assert [h.number for h in shown.unsupported] == [4, 5, 6, 7]
    assert [h.left_open for h in shown.hypotheses] == [False, False, True]
    assert shown.hypotheses[1].same_as == (1,) and shown.hypotheses[1].against[0].name == "per-token loss"


def test_a_hypothesis_that_no_panel_supports_is_listed_only_if_a_replay_tested_it() -> None:
    base = spike().incidents[0]
    panels = (*(replace(h, supported_by=(3,)) for h in base.hypotheses[:4]), *base.hypotheses[4:])
    tested = Experiment("R1", (Change("distinct"),), "persists", "distinct", tests=("repeated_batch",))
    shown = incident(replace(spike(), incidents=(replace(base, hypotheses=panels, experiments=(tested,)),)))
    assert [h.number for h in shown.hypotheses] == [1, 2, 3] and [h.number for h in shown.others] == [4, 5]
    assert shown.others[1].cause == "repeated_batch" and [h.number for h in shown.unsupported] == [6, 7]
    assert "Not supported by any panel: H6 Noise, or a hard batch and H7 LR schedule bug." in render(
        replace(spike(), incidents=(replace(base, hypotheses=panels, experiments=(tested,)),))
    )


def test_batches_that_replays_have_shown_are_a_window_although_the_cause_is_open() -> None:
    carried = replace(spike().incidents[0], verdict="undecided", remedy=(Change("skip", ((312, 313),)),))
    assert incident(replace(spike(), incidents=(carried,))).skip_window == (312, 313)


def test_what_is_taken_and_what_is_not() -> None:
    shown = incident(spike())
    assert len(shown.changes) == 2 and [c.declined[:7] for c in shown.declined] == ["it hide"]
    assert shown.skip_window == (312, 313)
    open_case = replace(spike(), incidents=(replace(spike().incidents[0], verdict="undecided"),))
    assert incident(open_case).skip_window is None


def test_what_is_not_recorded_is_said() -> None:
    told = view(undecided())
    assert (told.seed, told.dtype, told.processes) == ("not recorded", "not recorded", "world size not recorded")
    assert told.extent == "200 rows, steps 0 to 1999, a row every 10 steps"
    bare = replace(undecided().run, rows=1, first_step=None, log_every=None, world_size=8)
    told = view(replace(undecided(), run=bare))
    assert (told.extent, told.processes) == ("1 row, no steps", "8 processes")


def test_the_table_marks_the_incident_shown() -> None:
    case = several()
    told = report_view(case, case.incidents[1])
    assert told.incidents.marked == 1 and [i.id for i in told.other_incidents] == [1, 3]
    assert all(len(row) == len(told.incidents.headers) for row in told.incidents.rows)


def test_a_mark_holds_no_outer_spaces() -> None:
    tokens = (
        Token(" ", True, 1.0),
        Token("▁a"),
        Token("▁b"),
        Token("▁c▁", True, 2.0),
        Token("d", True, 3.0),
        Token(" e "),
    )
    case = replace(spike(), incidents=(replace(spike().incidents[0], samples=(Sample("", "", tokens),)),))
    (sample,) = incident(case).samples
    assert [(p.text, p.marked) for p in sample.pieces] == [
        ("a b ", False),
        ("c", True),
        (" ", False),
        ("d", True),
        (" e", False),
    ]
    assert [(p.text, p.loss) for p in sample.worst] == [("d", 3.0), ("c", 2.0), ("▁", 1.0)]  # a space is visible
    assert sample.sample_id == "without id"


def test_without_an_incident_panels_say_what_was_looked_at() -> None:
    told = view(clean())
    assert told.incident is None and len(told.looked_at) + len(told.not_there) == 13
    assert told.incidents.rows == () and all(panel.would_tell for panel in told.not_there)


def test_only_pictures_of_this_tool_are_shown() -> None:
    assert incident(hostile()).overview == "" and all(not p.image for p in incident(hostile()).moved)
