"""The text of a learner's notebook: where a lesson goes, which line it replaces, and which it never touches."""

from __future__ import annotations

from dataclasses import replace

import pytest

from postmortem.report.lesson_book import Lesson, enter

FIRST = Lesson(
    run_id="exp7",
    folder="runs/exp7",
    date="2026-11-20",
    incident="loss_spike 312 0 False",
    onset_step=312,
    verdict="supported",
    sentence="The batch of step 312 has 22 rare tokens.",
    advice="Rare tokens dominate the norm: stratify batches.",
    link="runs/exp7/postmortem/report.md",
)
OTHER = replace(FIRST, run_id="exp8", folder="runs/exp8", link="runs/exp8/postmortem/report.md")
SECOND = replace(FIRST, incident="loss_spike 400 0 False", onset_step=400)
CONFIRMED = replace(FIRST, verdict="confirmed")


def entered(*lessons: Lesson, text: str = "") -> str:
    for lesson in lessons:
        text = enter(text, lesson) or text
    return text


def outline(text: str) -> list[str]:
    """Headings and lines without marks, links and sentences."""
    lines = [line.partition(" <!-- ")[0] for line in text.split("\n") if line]
    return [line.partition(".**")[0] if line.startswith("- **") else line for line in lines]


def test_a_heading_for_each_run_with_its_incidents_below() -> None:
    text = entered(FIRST, OTHER, SECOND, replace(OTHER, date="", run_id="exp9", folder="runs/exp9"))
    assert outline(text) == [
        *("# Lessons", "## Suspected"),
        *("### exp7 (2026-11-20)", "- **Step 312, supported", "- **Step 400, supported"),
        *("### exp8 (2026-11-20)", "- **Step 312, supported"),
        *("### exp9", "- **Step 312, supported"),
    ]
    assert "\n\n\n" not in text and text.endswith(" -->\n")
    assert (
        "supported.** The batch of step 312 has 22 rare tokens. Rare tokens dominate the norm: stratify batches."
        in text
    )


def test_advice_stands_once_however_many_runs_teach_it() -> None:
    text = entered(FIRST, OTHER, SECOND)
    assert text.count("stratify batches") == 1 and text.count("has 22 rare tokens") == 3
    assert entered(OTHER, SECOND, FIRST, text=text) == text, "drafted again, all of it stays"
    assert entered(replace(OTHER, advice="Rare tokens dominate: clip."), text=text).count("clip") == 1
    mine = "# Lessons\n\nRare tokens dominate the norm: stratify batches.\n"
    assert entered(FIRST, text=mine).count("stratify") == 1, "written by hand"


def test_drafts_that_could_not_decide_say_once_what_to_log() -> None:
    runs = [replace(FIRST, folder=f"runs/{n}", verdict="undecided", advice="Unexplained: log lr.") for n in range(7)]
    text = ""
    for lesson in runs:
        text = enter(text, lesson, undecided=True) or text
    assert outline(text)[3:] == ["- **Step 312, undecided"] and text.count("log lr") == 1
    assert enter("", replace(runs[0], advice=""), undecided=True) is None
    followed = entered(replace(runs[1], verdict="supported"), text=text)
    assert "supported" in followed, "a verdict is entered without advice"


def test_a_confirmed_lesson_leaves_the_suspicions() -> None:
    text = entered(FIRST, OTHER, SECOND, CONFIRMED)
    assert outline(text) == [
        *("# Lessons", "## Confirmed", "### exp7 (2026-11-20)", "- **Step 312, confirmed"),
        *("## Suspected", "### exp7 (2026-11-20)", "- **Step 400, supported"),
        *("### exp8 (2026-11-20)", "- **Step 312, supported"),
    ]
    assert "\n\n\n" not in text


def test_headings_below_which_nothing_is_left_go_with_the_last_line() -> None:
    assert outline(entered(FIRST, CONFIRMED)) == outline(entered(CONFIRMED))
    assert entered(FIRST, CONFIRMED) == entered(CONFIRMED)
    assert entered(FIRST, CONFIRMED, FIRST) == entered(FIRST)
    kept = entered(CONFIRMED, text=entered(FIRST) + "\nMine.\n")
    assert outline(kept)[-3:] == ["## Suspected", "### exp7 (2026-11-20)", "Mine."]


def test_a_changed_verdict_replaces_its_own_line_at_its_place() -> None:
    text = entered(FIRST, SECOND, replace(FIRST, verdict="refuted"))
    assert outline(text)[3:] == ["- **Step 312, refuted", "- **Step 400, supported"]
    undecided = replace(FIRST, verdict="undecided", sentence="Loss 2 to 5.")
    assert outline(entered(undecided, text=text))[3:] == ["- **Step 312, undecided", "- **Step 400, supported"]
    assert enter("", undecided) is None and enter("", undecided, undecided=True) is not None


def test_new_figures_replace_the_line_and_a_new_link_does_not() -> None:
    text = entered(FIRST)
    assert enter(text, replace(FIRST, link="elsewhere/report.md")) is None
    assert enter(text, replace(FIRST, link="")) is None
    longer = enter(text, replace(FIRST, sentence="The batch of step 312 has 23 rare tokens."))
    assert longer is not None and longer.count("312 has") == 1 and "23 rare" in longer


@pytest.mark.parametrize(
    "edit", [("22 rare", "many rare"), (" ([report]", " Mine. ([report]"), ("- **Step", "* **Step")]
)
@pytest.mark.parametrize("lesson", [FIRST, CONFIRMED, replace(FIRST, verdict="undecided")])
def test_an_edited_line_is_never_touched(edit: tuple[str, str], lesson: Lesson) -> None:
    text = entered(FIRST, SECOND).replace(*edit, 1)
    mine = next(line for line in text.split("\n") if "Step 312" in line)
    after = entered(lesson, text=text)
    assert mine in after.split("\n")
    assert after.count("Step 312") == (2 if lesson.verdict == "confirmed" else 1)
    assert enter(after, lesson) is None


def test_an_edited_heading_is_still_the_heading_of_its_run() -> None:
    text = entered(FIRST).replace("### exp7 (2026-11-20)", "### My first spike").replace("# Lessons", "# Mine", 1)
    assert outline(entered(SECOND, text=text)) == [
        *("# Mine", "## Suspected", "### My first spike", "- **Step 312, supported", "- **Step 400, supported"),
    ]


def test_remarks_below_a_line_stay_with_it() -> None:
    remark = "  - I saw this in the dashboard, too."
    text = entered(FIRST, OTHER).replace(" -->\n\n### exp8", f" -->\n{remark}\n\n### exp8")
    lines = [line for line in entered(SECOND, text=text).split("\n") if line]
    at = lines.index(remark)
    assert "Step 312" in lines[at - 1] and "Step 400" in lines[at + 1] and lines[at + 2].startswith("### exp8")


def test_a_line_that_was_moved_is_replaced_where_it_is_now() -> None:
    lines = entered(FIRST).rstrip("\n").split("\n")
    text = "\n".join(["# Mine", "## What I learned", lines[-1], "", "The end.", ""])
    after = entered(CONFIRMED, text=text)
    assert outline(after) == ["# Mine", "## What I learned", "- **Step 312, confirmed", "The end."]


def test_runs_are_called_by_their_folder_where_ids_repeat() -> None:
    again = replace(OTHER, run_id="exp7", folder="other--runs/exp 7")
    third = replace(again, folder="third")
    text = entered(FIRST, again, third)
    assert outline(text)[2::2] == [
        "### runs/exp7 (2026-11-20)",
        "### other--runs/exp 7 (2026-11-20)",
        "### third (2026-11-20)",
    ]
    assert outline(entered(CONFIRMED, text=text))[2] == "### runs/exp7 (2026-11-20)"
    assert all(line.count("--") == 2 for line in text.split("\n") if line.startswith("### ") and "other" not in line)
    edited = entered(FIRST).replace("### exp7 (", "### My exp7 (")
    assert "### My exp7 (" in entered(again, text=edited)
    assert entered(FIRST, again, FIRST, again) == entered(FIRST, again)


OLD = (
    "- 2026-11-20 · exp7 · step 312 · Rare tokens can dominate. ([report](runs/exp7/postmortem/report.md))\n"
    "- undated · exp8 · step 7 · An older lesson.\n"
)


def test_what_the_code_before_wrote_is_continued() -> None:
    """It has no verdict and no mark, so it counts as edited, and as what the panels said."""
    assert enter(OLD, FIRST) is None
    assert enter(OLD, replace(FIRST, link="")) is None
    for lesson in (CONFIRMED, SECOND, OTHER, replace(FIRST, link="another/exp7/report.md")):
        after = enter(OLD, lesson)
        assert after is not None and after.startswith(f"{OLD}\n{lesson.section}\n\n### ")
        assert enter(after, lesson) is None


def test_a_long_line_of_spaces_costs_nothing() -> None:
    text = "x" + " " * 2_000_000 + "<!-- lesson \n### " + " " * 2_000_000 + "<!-- run \n"
    assert (enter(text, FIRST) or "").startswith(text)
