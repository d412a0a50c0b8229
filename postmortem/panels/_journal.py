"""Measures what the journal says about the time just before an incident, for the panel of the state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from postmortem.case import RESUME_ROWS, Case, Observation
from postmortem.run.event_meaning import as_number, is_half, old_and_new, setting_kind
from postmortem.run.event_text import event_text
from postmortem.run.journal import Event
from postmortem.run.naming import name_list
from postmortem.run.timeline import TimelineEvent
from postmortem.text import count

LISTED = 4  # events of one kind that a sentence lists

NOTED: Mapping[str, str] = {
    "oom": "state.out_of_memory",
    "kill": "state.ended",
    "run_end": "state.ended",
    "checkpoint_failed": "state.checkpoint_trouble",
    "checkpoint_refused": "state.checkpoint_trouble",
    "retention_failed": "state.checkpoint_trouble",
    "best_k_refused": "state.checkpoint_trouble",
    "recording_degraded": "state.rows_lost",
    "token_ids_lost": "state.token_ids_lost",
    "clock_went_back": "state.clock_went_back",
}
"""Events that are told as they are → the slug of their observation. Those of one slug become one observation."""

CHANGES = ("config_change", "lr_reduction", "data_change", "environment_change")
"""What people, or the program for them, changed: it is evidence at any distance, see `fading`."""

NOTICED = ("incident", "nonfinite_parameters")
"""What the training noticed while the incident lasted: its consequences, too."""

_SLUGS_OF_SETTINGS: Mapping[str, str] = {
    "data": "state.data_changed",
    "batch size": "state.batch_size_changed",
    "clipping": "state.clipping_changed",
}

EFFECTS = (
    ("schedule", "lr_discontinuity", "state.schedule_lost", "the schedule breaks off"),
    ("loader", "repeated_batch", "state.loader_lost", "the loader serves earlier batches again"),
)
"""Piece that a resume lost, kind of finding, slug and words for its effect."""

OBSERVES = (
    *("state.resumed", "state.incomplete_resume", "state.full_resume", "state.no_resume"),
    *("state.schedule_lost", "state.loader_lost", "state.rolled_back"),
    *("state.rate_raised", "state.rate_lowered", "state.schedule_changed", "state.data_changed"),
    *("state.batch_size_changed", "state.clipping_changed", "state.environment_change"),
    *("state.half_precision", "state.config_change", "state.noticed", "state.nonfinite_parameters"),
    *dict.fromkeys(NOTED.values()),
    "state.other_event",
)


def measure_journal(case: Case) -> list[Observation]:
    """One observation for each kind of thing that the journal says of the steps before the onset."""
    return [*_resume(case), *_lost_at_resume(case), *_changes(case), *_noted(case), *_noticed(case)]


def _resume(case: Case) -> Iterator[Observation]:
    if case.resume is None:
        if case.run.journal:
            text = "no resume within ten rows before the onset"
            yield Observation("state.no_resume", text, step=case.onset, moved=False)
        return
    steps = case.onset - case.resume
    where = f"{count(steps, 'step')} before the onset" if steps else "which is the onset"
    text = f"the run was resumed at step {case.resume}, {where}"
    event, lost = case.resume_event, case.lost_at_resume
    ending = None if event is None else case.timeline.ending(event)
    if ending is not None:
        at = "" if ending.step is None else f" at step {ending.step}"
        text += f"; before that, {event_text(ending.event)}{at}"
    if lost:
        names = name_list(lost)
        strength = 1.0 if case.pieces_lost - {"rng"} else 0.25  # other dropout masks alone are no incident
        figures = {"resume_step": case.resume, "lost": names}
        text = f"{text}; not restored: {names}"
        yield Observation("state.incomplete_resume", text, "", case.resume, figures, strength)
    elif lost is not None:
        text += "; by the journal it restored all of the state"
        yield Observation("state.full_resume", text, step=case.resume, figures={"resume_step": case.resume})
    else:
        yield Observation("state.resumed", text, step=case.resume, figures={"resume_step": case.resume})


def _lost_at_resume(case: Case) -> Iterator[Observation]:
    """What else the loss of a piece explains: a jump of the rate, or batches that come again, just after the resume."""
    if case.resume is None:
        return
    last = case.resume + RESUME_ROWS * case.row_step
    history = (case.incident.attempt, case.incident.discarded)
    findings = [f for i in case.incidents if (i.attempt, i.discarded) == history for f in i.findings]
    for piece, kind, slug, effect in EFFECTS:
        steps = [f.onset_step for f in findings if f.kind == kind and case.resume <= f.onset_step <= last]
        if piece in case.pieces_lost and steps:
            text = f"{effect} at step {min(steps)}, where the run was resumed without it"
            yield Observation(slug, text, step=min(steps), figures={"step": min(steps)})


def _changes(case: Case) -> Iterator[Observation]:
    """What changed of settings, data and environment at any time before the onset, and a rollback just before it."""
    by_slug: dict[str, list[TimelineEvent]] = {}
    for entry in case.timeline.before(case.incident, case.onset, *CHANGES, "resume"):
        slug = _slug_of_change(entry.event)
        if slug is not None:
            by_slug.setdefault(slug, []).append(entry)
    rollbacks = case.timeline.before(case.incident, RESUME_ROWS * case.row_step, "rollback")
    if rollbacks:
        yield _listing("state.rolled_back", rollbacks)
    for slug, entries in by_slug.items():
        steps = case.onset - max(entry.step or 0 for entry in entries)
        o = _listing(slug, entries, strength=fading(steps / case.row_step))
        distance = f"{count(steps, 'step')} before the onset" if steps else "which is the onset"
        last = "the last one " if len(entries) > 1 else ""
        yield replace(o, text=f"{o.text}, {last}{distance}", figures={**o.figures, "steps_before": steps})


def fading(rows: float) -> float:
    """The weight of a change that was made `rows` rows before the onset: whole within RESUME_ROWS, then half for each
    doubling of the distance.

    What a change does may show after ten rows or after a thousand: no lag is known, so each doubling of it is as likely
    as any other, and the density of a lag d is c / d. An onset without a cause is as likely at one row as at another.
    So the change is favored by odds of 1 + c / d, and far away their logarithm falls as 1 / d.
    """
    return min(1.0, RESUME_ROWS / max(rows, 1.0))


def _slug_of_change(event: Event) -> str | None:
    """The slug of what an event changed; None of a resume by as many ranks as before."""
    if event.event == "resume":
        sizes = [as_number(event.keys.get(key)) for key in ("saved_world_size", "world_size")]
        return "state.batch_size_changed" if None not in sizes and sizes[0] != sizes[1] else None
    if event.event == "environment_change":
        return "state.environment_change"
    if event.event == "data_change":
        return "state.data_changed"
    if event.event == "lr_reduction":
        return "state.rate_lowered"
    about, (old, new) = setting_kind(event.keys.get("key")), old_and_new(event)
    if about == "learning rate" and old is not None and new is not None and old != new:
        return "state.rate_raised" if new > old else "state.rate_lowered"
    if about in ("learning rate", "schedule"):
        return "state.schedule_changed"
    if about == "precision" and is_half(event.keys.get("new")):
        return "state.half_precision"
    return _SLUGS_OF_SETTINGS.get(about, "state.config_change")


def _noted(case: Case) -> Iterator[Observation]:
    near = RESUME_ROWS * case.row_step
    by_slug: dict[str, list[TimelineEvent]] = {}
    for entry in case.timeline.before(case.incident, near, *NOTED):
        if entry.event.keys.get("status") != "completed":
            by_slug.setdefault(NOTED[entry.name], []).append(entry)
    others = case.timeline.before(case.incident, near)
    if others:
        by_slug["state.other_event"] = others
    for slug, entries in by_slug.items():
        yield _listing(slug, entries, moved=slug != "state.other_event")


def _noticed(case: Case) -> Iterator[Observation]:
    """What the training noticed from just before the onset to just after the peak."""
    first, last = case.onset - RESUME_ROWS * case.row_step, case.span[1]
    near = case.timeline.before(case.incident, RESUME_ROWS * case.row_step, *NOTICED)
    near += case.timeline.after(case.incident, last, *NOTICED)
    inside = [e for e in near if e.attempt == case.incident.attempt and e.step is not None and first <= e.step <= last]
    for name, slug in (("incident", "state.noticed"), ("nonfinite_parameters", "state.nonfinite_parameters")):
        entries = [entry for entry in inside if entry.name == name]
        if entries:
            yield _listing(slug, entries, moved=name != "incident")


def _listing(slug: str, entries: Sequence[TimelineEvent], strength: float = 1.0, *, moved: bool = True) -> Observation:
    """One observation that lists events, the latest ones."""
    phrases = (
        event_text(e.event) if e.name == "rollback" else f"at step {e.step}, {event_text(e.event)}"
        for e in entries[-LISTED:]
    )
    listed = list(dict.fromkeys(phrases))
    more = f"; and {len(entries) - LISTED} more" if len(entries) > LISTED else ""
    step = entries[-1].step
    return Observation(slug, "; ".join(listed) + more, "", step, {"events": len(entries)}, strength, moved)
