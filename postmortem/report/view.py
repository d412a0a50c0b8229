"""What the templates print of one incident, worked out beforehand: a template holds sentences and no decisions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from string import ascii_lowercase

from postmortem.diagnosis import (
    UNKNOWN,
    Diagnosis,
    Evidence,
    Hypothesis,
    Incident,
    PanelReading,
    Sample,
    Symptom,
    Token,
)
from postmortem.report import words
from postmortem.report.markdown import Safe, code, escape, listing

RULES_OUT = -1.5  # log-odds at or under which an observation is said to rule a cause out; above it, to weaken it
FAVORS = 0.3  # log-odds over which an observation is said to favour a cause
LISTED = 3  # hypotheses in full, at least; others only with a share of LISTED_SHARE, and LISTED_MOST altogether
LISTED_SHARE = 0.03
LISTED_MOST = 6

SPACES = str.maketrans({"▁": " ", "Ġ": " ", "Ċ": " "})

PICTURE = re.compile(r"panels/[a-z0-9-]+\.png")


@dataclass
class Sources:
    """Letters that stand for file and column, so that each number carries its origin without drowning in it."""

    letters: dict[str, str] = field(default_factory=dict[str, str])

    def mark(self, origin: str) -> Safe:
        """` [a]` for an origin, nothing where there is none."""
        if not origin:
            return Safe("")
        if origin not in self.letters:
            turn, letter = divmod(len(self.letters), len(ascii_lowercase))
            self.letters[origin] = ascii_lowercase[letter] * (turn + 1)
        return Safe(f" [{self.letters[origin]}]")

    def legend(self, origins: Iterable[str]) -> Safe:
        """The letters of `origins`, each with what it stands for."""
        files: dict[str, list[str]] = {}
        for origin in dict.fromkeys(origin for origin in origins if origin):
            file, _, place = origin.rpartition(", ")  # "metrics.csv, column loss"
            word, _, name = place.partition(" ")
            shown = f" {escape(word)} {code(name)}" if file and name else f" {code(origin)}"
            files.setdefault(file if name else "", []).append(f"[{self.letters[origin]}]{shown}")
        return Safe(" · ".join((f"{code(file)}: " if file else "") + ", ".join(marks) for file, marks in files.items()))


@dataclass(frozen=True)
class SymptomLine:
    label: str
    value: str
    step: int | None
    missing: str
    mark: Safe


@dataclass(frozen=True)
class HypothesisLine:
    title: str
    cause: str
    strength: str
    supported_by: Safe
    against: Safe
    same_as: Safe


@dataclass(frozen=True)
class EvidenceLine:
    panel: int
    title: str
    text: str
    verdict: Safe
    mark: Safe


class IncidentView:
    """One incident as the seven sections need it."""

    def __init__(self, incident: Incident) -> None:
        self.incident = incident
        self.sources = Sources()
        self.numbers = {h.cause: i for i, h in enumerate(incident.hypotheses, start=1)}
        self.titles = {panel.number: panel.title for panel in incident.panels}

    @property
    def onset(self) -> str:
        return words.onset(self.incident)

    @property
    def batches_assumed(self) -> bool:
        """Whether the skip window counts steps, because no batch index is logged."""
        return any(s.key == "batch_index" and s.missing for s in self.incident.symptoms)

    @property
    def recovery(self) -> str:
        return words.recovery(self.incident)

    @property
    def kind(self) -> str:
        return words.kind(self.incident)

    @property
    def symptoms(self) -> list[SymptomLine]:
        return [self._symptom(symptom) for symptom in self.incident.symptoms]

    @property
    def symptom_sources(self) -> Safe:
        return self.sources.legend(s.origin for s in self.incident.symptoms if not s.missing)

    @property
    def evidence_sources(self) -> Safe:
        told = [e.origin for e in self.incident.evidence if self._evidence(e).verdict]
        return self.sources.legend(told)

    @property
    def hypotheses(self) -> list[HypothesisLine]:
        """Best first: those worth a line of their own."""
        return [self._hypothesis(h) for h in self.incident.hypotheses[: self._shown]]

    @property
    def others(self) -> Safe:
        """The causes that were weighed and hardly speak to the evidence, each with the number it has in section 3."""
        rest = self.incident.hypotheses[self._shown :]
        return listing(Safe(f"H{self.numbers[h.cause]} {escape(h.title)}") for h in rest)

    @property
    def evidence(self) -> list[EvidenceLine]:
        """Observations that speak for or against a cause; the others stand with the calm panels."""
        return [line for line in map(self._evidence, self.incident.evidence) if line.verdict]

    @property
    def replays(self) -> list[tuple[object, ...]]:
        """One row per replay that was driven."""
        numbers = self.numbers
        return [
            (
                one.role,
                one.text.partition(": ")[0] if one.changes else "nothing",
                {"vanished": "does not appear", "": "not driven"}.get(one.outcome, one.outcome),
                "—" if one.excess is None else f"{100 * one.excess:.3g} %",
                listing(Safe(f"H{numbers[cause]}") for cause in one.tests if cause in numbers) or "—",
            )
            for one in self.incident.experiments
        ]

    @property
    def driven(self) -> str:
        """What the replays cost."""
        steps = sum(one.steps for one in self.incident.experiments)
        return f"{steps} steps driven" if steps else ""

    @property
    def moved(self) -> list[PanelReading]:
        """Panels that moved, and the loss: what is drawn."""
        return [p for p in self.incident.panels if not p.silent and (p.moved or p.slug == "loss")]

    @property
    def calm(self) -> list[PanelReading]:
        return [p for p in self.incident.panels if not p.silent and not p.moved and p.slug != "loss"]

    @property
    def silent(self) -> list[PanelReading]:
        return [p for p in self.incident.panels if p.silent]

    @property
    def samples(self) -> list[tuple[Sample, Safe, Safe]]:
        """Each suspect sample with its text, the worst tokens in ⟦ ⟧, and those tokens with their losses."""
        return [(s, _sample_text(s), _worst(s)) for s in self.incident.samples]

    @property
    def marked(self) -> bool:
        """Whether any token of these samples is marked."""
        return any(token.marked for sample in self.incident.samples for token in sample.tokens)

    @property
    def _shown(self) -> int:
        known = self.incident.hypotheses
        worth = sum(h.probability >= LISTED_SHARE for h in known)
        return min(len(known), max(LISTED, min(worth, LISTED_MOST)))

    def _symptom(self, symptom: Symptom) -> SymptomLine:
        value = symptom.text or words.figure(symptom.value)
        step = None if symptom.step is None or symptom.value == symptom.step else symptom.step
        mark = Safe("") if symptom.missing else self.sources.mark(symptom.origin)
        return SymptomLine(symptom.label, value, step, symptom.missing, mark)

    def _hypothesis(self, hypothesis: Hypothesis) -> HypothesisLine:
        same = [f"H{self.numbers[c]}" for c in hypothesis.indistinguishable_from if c in self.numbers]
        return HypothesisLine(
            hypothesis.title,
            "" if hypothesis.cause == UNKNOWN else hypothesis.cause,
            hypothesis.strength,
            self._panels(hypothesis.supported_by),
            self._panels(hypothesis.ruled_out_by),
            listing(same),
        )

    def _panels(self, numbers: Sequence[int]) -> Safe:
        return listing(
            Safe(f"panel {n} ({escape(self.titles[n].lower())})" if n in self.titles else f"panel {n}") for n in numbers
        )

    def _evidence(self, evidence: Evidence) -> EvidenceLine:
        by_weight = sorted(evidence.weights.items(), key=lambda item: (-abs(item[1]), self.numbers.get(item[0], 0)))
        known = [(self.numbers[cause], weight) for cause, weight in by_weight if cause in self.numbers]
        parts = [
            ("favors", _ranges(n for n, w in known if w > FAVORS)),
            ("rules out", _ranges(n for n, w in known if w <= RULES_OUT)),
            ("weakens", _ranges(n for n, w in known if RULES_OUT < w < -FAVORS)),
        ]
        said = ", ".join(f"{verb} {hypotheses}" for verb, hypotheses in parts if hypotheses)
        text = evidence.text.rstrip(".")
        return EvidenceLine(
            evidence.panel,
            self.titles.get(evidence.panel, ""),
            text,
            Safe(said),
            self.sources.mark(evidence.origin),
        )


def incident_rows(diagnosis: Diagnosis, shown: Incident) -> list[tuple[object, ...]]:
    """One row per incident, worst first, for the table in the report's head."""
    return [
        (
            Safe(f"**{i.id}**") if i is shown else i.id,
            words.kind(i) + (" (rolled back)" if i.discarded else ""),
            words.onset(i),
            i.peak_step,
            words.recovery(i),
            i.outcome,
            words.verdict(i.verdict),
            f"{i.hypotheses[0].title} ({i.hypotheses[0].strength})" if i.hypotheses else "—",
        )
        for i in diagnosis.incidents
    ]


def image(panel: PanelReading) -> Safe:
    """The picture's path where it is one this tool draws: a diagnosis file may come from anywhere."""
    return safe_image(panel.image)


def safe_image(path: str) -> Safe:
    """`path` if it lies in panels/ under a plain name, else nothing."""
    return Safe(path) if PICTURE.fullmatch(path) else Safe("")


def _ranges(numbers: Iterable[int]) -> Safe:
    """`H1 and H4–H7`: three and more in a row are drawn together."""
    groups: list[list[int]] = []
    for number in sorted(numbers):
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    parts: list[str] = []
    for group in groups:
        parts += [f"H{group[0]}–H{group[-1]}"] if len(group) > 2 else [f"H{n}" for n in group]
    return listing(map(Safe, parts))


def _sample_text(sample: Sample) -> Safe:
    """The pieces joined; a marked piece keeps its outer spaces outside the brackets."""
    parts: list[str] = []
    for token in sample.tokens:
        text = _piece(token)
        core = text.strip()
        if token.marked and core:
            lead = " " if text[:1].isspace() else ""
            tail = " " if text[-1:].isspace() else ""
            text = f"{lead}⟦{core}⟧{tail}"
        parts.append(text)
    return escape("".join(parts).strip())


def _worst(sample: Sample) -> Safe:
    losses = [t for t in sample.tokens if t.marked and t.loss is not None]
    losses.sort(key=lambda t: -(t.loss or 0.0))
    return listing(Safe(f"⟦{escape(_piece(t).strip())}⟧ {words.figure(t.loss)}") for t in losses)


def _piece(token: Token) -> str:
    """A piece's text; SentencePiece and GPT-2 write a word's leading space as a letter of its own."""
    return token.text.translate(SPACES)
