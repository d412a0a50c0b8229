"""Builds the view of a report from a `Diagnosis`, so that templates only print and decide nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from string import ascii_lowercase

from postmortem.diagnosis import (
    MEAN_ROWS,
    UNKNOWN,
    Diagnosis,
    Evidence,
    Experiment,
    Hypothesis,
    Incident,
    PanelReading,
    RunFacts,
    Sample,
    Symptom,
    Verification,
)
from postmortem.report import wording
from postmortem.report.view import (
    EvidenceView,
    HypothesisView,
    IncidentView,
    OtherIncident,
    PanelName,
    PanelView,
    Place,
    ReportTable,
    ReportView,
    SampleView,
    SourceFile,
    SymptomView,
    TextPiece,
    VerificationView,
)
from postmortem.text import count, number

FAVORS = 0.3  # log-odds above which the report says that an observation favors a cause, and below −0.3 weakens it
COUNTS_AGAINST = -1.5  # log-odds from which it counts against the cause …
COUNTS_STRONGLY = -3.0  # … and strongly so: even then other observations can outweigh it
LISTED = 3  # hypotheses listed in full, at least; more only with a share of LISTED_SHARE, up to LISTED_MOST
LISTED_SHARE = 0.03
LISTED_MOST = 6
RESUMES = 3  # resumes before an incident, the newest, and after it, the first, are listed; the others are counted
EVENTS = 20  # further events of the journal that are listed; the rest is in diagnosis.json
NOTES = 12  # notes of the reader that are listed; the rest is in diagnosis.json

SPACES = str.maketrans({"▁": " ", "Ġ": " ", "Ċ": " "})  # how SentencePiece and GPT-2 write a leading space

PICTURE = re.compile(r"panels/[a-z0-9-]+\.png")

WITHIN = "within its baseline"
NOT_RECORDED = "not recorded"


def report_view(diagnosis: Diagnosis, shown: Incident | None) -> ReportView:
    """The report on `shown`, one of the diagnosis' incidents (None where there are none)."""
    run = diagnosis.run
    verdict = diagnosis.verdict if shown is None else shown.verdict
    quiet = diagnosis.quiet_panels if shown is None else ()
    resumes, later = _resumes(run, shown)
    return ReportView(
        title=wording.title(shown),
        date=run.date or "undated",
        run_id=diagnosis.run_id,
        verdict=verdict,
        verdict_words=wording.verdict_words(verdict),
        verdict_means=wording.verdict_means(diagnosis, shown),
        rule="" if diagnosis.watchdog is None else diagnosis.watchdog.text,
        resumes=resumes[-RESUMES:],
        earlier_resumes=max(0, len(resumes) - RESUMES),
        later_resumes=later[:RESUMES],
        more_later_resumes=max(0, len(later) - RESUMES),
        source=run.source,
        extent=_extent(run),
        seed=NOT_RECORDED if run.seed is None else run.seed,
        dtype=run.dtype or NOT_RECORDED,
        processes=_processes(run.world_size),
        segments=run.segments if len(run.segments) > 1 else (),
        events=run.events[:EVENTS],
        more_events=max(0, len(run.events) - EVENTS),
        notes=diagnosis.notes[:NOTES],
        more_notes=max(0, len(diagnosis.notes) - NOTES),
        incidents=_incident_table(diagnosis.incidents, shown),
        other_incidents=tuple(
            OtherIncident(i.id, wording.kind(i), wording.onset(i)) for i in diagnosis.incidents if i is not shown
        ),
        incidents_found=max(diagnosis.incidents_found, len(diagnosis.incidents)),
        incident=None if shown is None else _incident(shown, run.log_every or 1),
        looked_at=tuple(_panel(p, p.summary or WITHIN) for p in quiet if not p.silent),
        not_there=tuple(_panel(p, p.silent) for p in quiet if p.silent),
        not_covered=diagnosis.not_covered if shown is None else (),
    )


def _resumes(run: RunFacts, shown: Incident | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the resumes that led to the incident, those of later attempts): a resume belongs to the attempt that it began.
    Where a file does not say which, all of them led to it."""
    if shown is None or len(run.resume_attempts) != len(run.resumes):
        return run.resumes, ()
    later = [attempt > shown.attempt for attempt in run.resume_attempts]
    return tuple(compress(run.resumes, (not after for after in later))), tuple(compress(run.resumes, later))


def _extent(run: RunFacts) -> str:
    rows = count(run.rows, "row")
    steps = "no steps" if run.first_step is None else f"steps {run.first_step} to {run.last_step}"
    interval = "every step" if run.log_every == 1 else f"a row every {run.log_every} steps"
    return ", ".join((rows, steps, interval) if run.log_every else (rows, steps))


def _processes(world_size: int | None) -> str:
    if world_size is None:
        return f"world size {NOT_RECORDED}"
    return count(world_size, "process")


def _incident_table(incidents: Sequence[Incident], shown: Incident | None) -> ReportTable:
    rows = [
        (
            i.id,
            wording.kind(i) + (" (rolled back)" if i.discarded else ""),
            wording.onset(i),
            i.peak_step,
            wording.recovery(i),
            i.outcome,
            wording.verdict_words(i.verdict),
            f"{i.hypotheses[0].title} ({i.hypotheses[0].strength})" if i.hypotheses else "—",
        )
        for i in incidents
    ]
    headers = ("incident", "kind", "onset", "peak", "recovery", "outcome", "verdict", "leading hypothesis")
    return ReportTable(headers, tuple(rows), next((n for n, i in enumerate(incidents) if i is shown), None))


def _incident(incident: Incident, row_step: int) -> IncidentView:
    supported, unsupported = _by_support(incident)
    numbers = {h.cause: n for n, h in enumerate((*supported, *unsupported), start=1)}
    titles = {panel.number: panel.title for panel in incident.panels}
    symptom_origins = [s.origin for s in incident.symptoms if not s.missing]
    marks = _letters([*symptom_origins, *(e.origin for e in incident.evidence)])
    views = [(e.origin, _evidence(e, numbers, titles, marks)) for e in incident.evidence]
    evidence = [(origin, view) for origin, view in views if view.effect]
    hypotheses = [_hypothesis(h, numbers, titles) for h in supported]
    listed = max(LISTED, min(sum(h.probability >= LISTED_SHARE for h in hypotheses), LISTED_MOST))
    readable = [p for p in incident.panels if not p.silent]
    return IncidentView(
        id=incident.id,
        kind=wording.kind(incident),
        summary=incident.summary,
        onset_step=incident.onset_step,
        onset=wording.onset(incident),
        peak_step=incident.peak_step,
        recovery_step=incident.recovery_step,
        recovery=wording.recovery(incident),
        outcome=incident.outcome,
        overview=_picture(incident.overview),
        symptoms=tuple(_symptom(s, marks) for s in incident.symptoms),
        symptom_sources=_sources(symptom_origins, marks),
        hypotheses=tuple(hypotheses[:listed]),
        others=tuple(hypotheses[listed:]),
        unsupported=tuple(_hypothesis(h, numbers, titles) for h in unsupported),
        strengths=wording.strengths(),
        evidence=tuple(view for _, view in evidence),
        evidence_sources=_sources((origin for origin, _ in evidence), marks),
        replays=_replay_table(incident.experiments, numbers),
        steps_driven=sum(experiment.steps for experiment in incident.experiments),
        moved=tuple(_panel(p, p.summary) for p in readable if p.moved or p.slug == "loss"),
        calm=tuple(_panel(p, p.summary or WITHIN) for p in readable if not p.moved and p.slug != "loss"),
        silent=tuple(_panel(p, p.silent) for p in incident.panels if p.silent),
        other_moved=wording.other_moved(incident.other_moved),
        samples=tuple(map(_sample, incident.samples)),
        marked=any(token.marked for sample in incident.samples for token in sample.tokens),
        root_cause=incident.root_cause or incident.not_known or "Not known yet: the evidence favors no cause.",
        proof=incident.proof if incident.root_cause else "",
        watch=incident.watch,
        done=tuple(text for text in incident.done if text not in {c.done for c in incident.changes}),
        since=incident.since,
        changes=tuple(c for c in incident.changes if not (c.declined or c.done)),
        done_changes=tuple(c for c in incident.changes if c.done),
        declined=tuple(c for c in incident.changes if c.declined and not c.done),
        rollback="" if incident.rollback is None else wording.rollback(incident.rollback),
        skip_window=incident.skip_window if incident.verdict != "undecided" or _is_skipped(incident) else None,
        skipped=incident.skipped,
        batches_assumed=any(s.key == "batch_index" and s.missing for s in incident.symptoms),
        checkpoint=incident.checkpoint,
        passed_over=incident.passed_over,
        verification=None
        if incident.verification is None
        else _verification(incident.verification, incident.onset_step, row_step),
        lesson=incident.lesson or "Not filled: there is no lesson while the cause is unknown.",
    )


def _by_support(incident: Incident) -> tuple[list[Hypothesis], list[Hypothesis]]:
    """(the hypotheses that a panel supports or a replay tested, and `unknown`; the others), the likeliest first."""
    tested = {UNKNOWN, *(cause for experiment in incident.experiments for cause in experiment.tests)}
    unsupported = [h for h in incident.hypotheses if not h.supported_by and h.cause not in tested]
    return [h for h in incident.hypotheses if h not in unsupported], unsupported


def _is_skipped(incident: Incident) -> bool:
    """Whether the remedy is to leave out batches: replays may show that without showing the cause."""
    return any(change.name == "skip" for change in incident.remedy or ())


def _letters(origins: Iterable[str]) -> dict[str, str]:
    """A letter for each origin (file and column), so that a number shows its origin in one character."""
    marks: dict[str, str] = {"": ""}
    for origin in origins:
        if origin not in marks:
            repeats, letter = divmod(len(marks) - 1, len(ascii_lowercase))
            marks[origin] = ascii_lowercase[letter] * (repeats + 1)
    return marks


def _sources(origins: Iterable[str], marks: Mapping[str, str]) -> tuple[SourceFile, ...]:
    """The places behind the letters of `origins`, by file."""
    files: dict[str, list[Place]] = {}
    for origin in dict.fromkeys(origin for origin in origins if origin):
        file, _, place = origin.rpartition(", ")  # "metrics.csv, column loss"
        kind, _, name = place.partition(" ")
        if not (file and name):
            file, kind, name = "", "", origin
        files.setdefault(file, []).append(Place(marks[origin], kind, name))
    return tuple(SourceFile(file, tuple(places)) for file, places in files.items())


def _symptom(symptom: Symptom, marks: Mapping[str, str]) -> SymptomView:
    return SymptomView(
        label=symptom.label,
        value=symptom.value,
        text=symptom.text or wording.figure_text(symptom.value),
        step=None if symptom.value == symptom.step else symptom.step,
        missing=symptom.missing,
        mark="" if symptom.missing else marks[symptom.origin],
    )


def _hypothesis(hypothesis: Hypothesis, numbers: Mapping[str, int], titles: Mapping[int, str]) -> HypothesisView:
    known = hypothesis.cause != UNKNOWN
    return HypothesisView(
        number=numbers[hypothesis.cause],
        cause=hypothesis.cause,
        title=hypothesis.title,
        known=known,
        strength=hypothesis.strength,
        probability=hypothesis.probability,
        supported_by=_panel_names(hypothesis.supported_by, titles),
        against=_panel_names(hypothesis.ruled_out_by, titles),
        same_as=tuple(numbers[cause] for cause in hypothesis.indistinguishable_from if cause in numbers),
        left_open=not known and not hypothesis.supported_by,
    )


def _panel_names(panels: Iterable[int], titles: Mapping[int, str]) -> tuple[PanelName, ...]:
    return tuple(PanelName(n, titles[n].lower() if n in titles else None) for n in panels)


def _evidence(
    evidence: Evidence, numbers: Mapping[str, int], titles: Mapping[int, str], marks: Mapping[str, str]
) -> EvidenceView:
    weights = sorted((numbers[cause], weight) for cause, weight in evidence.weights.items() if cause in numbers)
    favors = tuple(n for n, w in weights if w > FAVORS)
    strongly = tuple(n for n, w in weights if w <= COUNTS_STRONGLY)
    against = tuple(n for n, w in weights if COUNTS_STRONGLY < w <= COUNTS_AGAINST)
    weakens = tuple(n for n, w in weights if COUNTS_AGAINST < w < -FAVORS)
    parts = (
        ("favors", favors),
        ("counts strongly against", strongly),
        ("counts against", against),
        ("weakens", weakens),
    )
    return EvidenceView(
        panel=evidence.panel,
        title=titles.get(evidence.panel, ""),
        text=evidence.text.rstrip("."),
        favors=favors,
        rules_out=tuple(sorted((*strongly, *against))),
        weakens=weakens,
        effect=", ".join(f"{verb} {wording.hypothesis_numbers(causes)}" for verb, causes in parts if causes),
        mark=marks[evidence.origin],
    )


def _replay_table(experiments: Iterable[Experiment], numbers: Mapping[str, int]) -> ReportTable:
    rows = [
        (
            experiment.role,
            experiment.text.partition(": ")[0] if experiment.changes else "nothing",
            {"vanished": "does not appear", "": "not judged"}.get(experiment.outcome, experiment.outcome)
            + (" (not checked)" if experiment.unchecked else ""),
            "—" if experiment.excess is None else f"{100 * experiment.excess:.3g} %",
            wording.and_list(f"H{numbers[cause]}" for cause in experiment.tests if cause in numbers) or "—",
        )
        for experiment in experiments
    ]
    return ReportTable(("replay", "changed", "the incident", "excess loss", "tests"), tuple(rows))


def _panel(panel: PanelReading, text: str) -> PanelView:
    would_tell = f"{panel.would_tell}.".replace("..", ".") if panel.would_tell else ""
    return PanelView(panel.number, panel.title, text, would_tell, _picture(panel.image))


def _picture(path: str) -> str:
    """`path` if it is a plain name in panels/, else "": a diagnosis file may come from anywhere."""
    return path if PICTURE.fullmatch(path) else ""


def _sample(sample: Sample) -> SampleView:
    tokens = [TextPiece(token.text.translate(SPACES), token.marked, token.loss) for token in sample.tokens]
    worst = [
        TextPiece(token.text.translate(SPACES).strip() or token.text.strip() or "▁", True, token.loss)  # a space: "▁"
        for token in sample.tokens
        if token.marked and token.loss is not None
    ]
    worst.sort(key=lambda piece: -(piece.loss or 0.0))
    return SampleView(sample.sample_id or "without id", sample.source, _pieces(tokens), tuple(worst))


def _pieces(tokens: Iterable[TextPiece]) -> tuple[TextPiece, ...]:
    """The tokens' text, trimmed. A marked piece has no outer spaces; all text between two marks is one piece."""
    pieces: list[TextPiece] = []
    between = ""
    for token in tokens:
        core = token.text.strip()
        if not (token.marked and core):
            between += token.text
            continue
        between += " " if token.text[:1].isspace() else ""
        pieces += [TextPiece(between if pieces else between.lstrip()), TextPiece(core, True, token.loss)]
        between = " " if token.text[-1:].isspace() else ""
    pieces.append(TextPiece(between.rstrip() if pieces else between.strip()))
    return tuple(piece for piece in pieces if piece.text)


def _verification(v: Verification, onset: int, row_step: int) -> VerificationView:
    steps = f"from step {onset} through {v.through_step}"
    expected = f"every loss must be finite {steps}" if any(check.column == "loss" for check in v.checks) else ""
    if v.epsilon is not None and v.baseline_loss is not None:
        mean = f"{MEAN_ROWS}-row mean" if (v.through_step - onset) // row_step + 1 >= MEAN_ROWS else "mean"
        limit = f"{number(v.baseline_loss + v.epsilon)} (baseline {number(v.baseline_loss)} + {number(v.epsilon)})"
        expected = f"the {mean} of the loss must stay at or below {limit} {steps}"
    return VerificationView(
        seed=f"({NOT_RECORDED}: fix one, and log it in run.json)" if v.seed is None else v.seed,
        expected=expected,
        baseline=v.baseline_loss,
        through_step=v.through_step,
        checks=tuple(check.text for check in v.checks),
        command=v.command,
        not_needed=v.not_needed,
    )
