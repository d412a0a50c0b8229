"""Hand-made diagnoses: the worked example's own figures, and the variants a report must carry."""

from __future__ import annotations

import math
from dataclasses import replace

from postmortem.diagnosis import (
    SCHEMA_VERSION,
    Diagnosis,
    Evidence,
    Hypothesis,
    Incident,
    Remedy,
    RunFacts,
    Sample,
    Signal,
    Symptom,
    Token,
    Verdict,
    Verification,
    VerificationCheck,
)
from tests.report.readings import BATCHES, METRICS, panels, symptoms


def spike() -> Diagnosis:
    """The worked example: a rare piece concentrated in one batch at step 312."""
    evidence = (
        Evidence(
            3,
            "single_step_spike",
            "47.2 at step 312, baseline 0.6.",
            312,
            {"value": 47.2, "baseline": 0.6},
            METRICS + "grad_norm",
            {"long_tail_tokens": 2.0, "numerical": -0.8, "benign": -2.0},
        ),
        Evidence(
            4,
            "embedding_first",
            "act_rms/embed is 3.2× its baseline at step 312, before any layer.",
            312,
            {"ratio": 3.2},
            METRICS + "act_rms/embed",
            {"long_tail_tokens": 1.2},
        ),
        Evidence(
            7,
            "right_tail",
            "p99 12.0 against a median of 1.9 at step 312: a right tail on few ids.",
            312,
            {"p99": 12.0},
            METRICS + "token_loss_p99",
            {"long_tail_tokens": 2.2, "garbage_data": -1.6},
        ),
        Evidence(2, "lr_smooth", "smooth cosine, no jump.", 312, {}, METRICS + "lr", {"lr_discontinuity": -4.0}),
        Evidence(
            11,
            "hash_unique",
            "the hash of batch 312 differs from those of 311 and 313.",
            312,
            {},
            BATCHES + "batch_hash",
            {"repeated_batch": -4.0},
        ),
    )
    hypotheses = (
        Hypothesis("long_tail_tokens", "Long-tail token outlier", 0.91, 5.4, "strong", (7, 3, 4), ()),
        Hypothesis("garbage_data", "Garbage data", 0.04, 2.2, "weak", (3,), (7,), ("long_tail_tokens",)),
        Hypothesis("unknown", "None of the causes known here", 0.02, 1.0, "weak"),
        Hypothesis("numerical", "Numerical round-off", 0.01, 0.4, "weak", (), (3,)),
        Hypothesis("benign", "Noise, or a hard batch", 0.008, -0.8, "weak", (), (3,)),
        Hypothesis("lr_discontinuity", "LR schedule bug", 0.006, -2.1, "weak", (), (2,)),
        Hypothesis("repeated_batch", "Repeated batch", 0.006, -2.2, "weak", (), (11,)),
    )
    incident = Incident(
        id=1,
        kind="loss_spike",
        title="loss spike",
        onset_step=312,
        onset_interval=None,
        peak_step=313,
        recovery_step=360,
        outcome="recovered",
        verdict="supported",
        severity=3.53,
        suspected=False,
        attempt=0,
        discarded=False,
        summary="The loss rose from 2.31 to 5.84 within two steps of step 312 and settled at 3.40 by step 360.",
        symptoms=symptoms(),
        signals=(Signal("robust_z", "loss_spike", "loss", 312, 313, 5.84, 2.31, 31.0, 360),),
        evidence=evidence,
        hypotheses=hypotheses,
        panels=panels(),
        root_cause="One batch concentrated the rare piece ‘tten’, whose embedding gradient dominated the global norm "
        "(47× the clip threshold) and left the optimizer's moments disturbed for about 50 steps.",
        not_known="",
        watch="",
        changes=(
            Remedy("Lower the clip threshold from 1.0 to 0.5.", "it would have engaged on 81 % of the recorded steps."),
            Remedy(
                "Stratify batches: at most one occurrence of a piece seen fewer than 10 times.",
                "one sort of the corpus at start.",
            ),
            Remedy(
                "Re-tokenize so that ‘written’ is one piece.", declined="it hides the long tail instead of handling it."
            ),
        ),
        verification=Verification(
            42,
            0.05,
            2.31,
            500,
            (
                VerificationCheck("loss", 312, 312, "<", 2.5, "step 312 loss: < 2.5 (5.84 in the broken run)"),
                VerificationCheck("grad_norm", 300, 400, "<", 3.0, "max grad-norm in window [300, 400]: < 3.0"),
                VerificationCheck(
                    "grad_norm_clipped", 300, 400, "<=", 0.5, "max grad-norm clipped: ≤ 0.5 (the new threshold)"
                ),
            ),
            "postmortem replay runs/19-spike-001 --verify",
        ),
        lesson="One rare piece concentrated in a single batch can dominate the global gradient norm for 50 steps.",
        skip_window=(312, 313),
        checkpoint="rollback/step-00000300.pt",
        samples=(
            Sample(
                "s17",
                "corpus/participles.txt",
                (
                    Token("the"),
                    Token(" letter"),
                    Token(" was"),
                    Token(" wri"),
                    Token("tten", True, 12.04),
                    Token(" today"),
                ),
            ),
        ),
    )
    return _diagnosis("19-spike-001", (incident,))


def nan() -> Diagnosis:
    """A loss that turns NaN and stays NaN."""
    base = spike().incidents[0]
    found = {s.key: s for s in base.symptoms}
    incident = replace(
        base,
        kind="non_finite",
        title="non-finite loss",
        outcome="diverged",
        recovery_step=None,
        peak_step=312,
        verdict="supported",
        summary="The loss became NaN at step 312 and did not recover.",
        symptoms=(
            found["onset_step"],
            found["pre_spike_loss"],
            replace(found["peak_loss"], value=math.nan, step=312),
            Symptom(
                "recovery_loss",
                "recovery loss (50 steps after peak)",
                math.nan,
                401,
                METRICS + "loss",
                "did not recover: NaN",
            ),
            Symptom(
                "grad_norm",
                "grad-norm pre-clip at spike",
                missing="grad_norm was not logged; log it each step, before clipping.",
            ),
            *base.symptoms[5:8],
            Symptom(
                "unusual_tokens",
                "corpus tokens in that batch that look unusual",
                "none flagged",
                312,
                BATCHES + "token_ids",
            ),
        ),
        evidence=(
            Evidence(
                12,
                "hash_jump",
                "the parameter hash changes violently at step 312.",
                312,
                {},
                METRICS + "param_hash",
                {"nan_propagation": 3.0},
            ),
        ),
        hypotheses=(
            Hypothesis(
                "nan_propagation", "Destructive update wrote a NaN into a parameter", 0.84, 3.0, "strong", (12,)
            ),
            Hypothesis("unknown", "None of the causes known here", 0.16, 1.0, "weak"),
        ),
        root_cause="The update of step 312 wrote a NaN into a parameter, from which every later loss inherits it.",
        changes=(Remedy("Revert to rollback/step-00000300.pt, the last NaN-free checkpoint.", "12 steps are lost."),),
        verification=Verification(
            42, None, None, 500, (VerificationCheck("loss", 300, 500, "finite", None, "loss finite on [300, 500]"),), ""
        ),
        lesson="Check the gradients for NaN before the update: afterwards it is too late.",
        skip_window=None,
        samples=(),
    )
    return _diagnosis("23-nan-004", (incident,))


def undecided() -> Diagnosis:
    """A sparse log that ends too soon, with no cause singled out."""
    base = spike().incidents[0]
    incident = replace(
        base,
        onset_interval=(310, 320),
        onset_step=320,
        peak_step=320,
        recovery_step=None,
        outcome="unresolved",
        verdict="undecided",
        summary="The loss rose from 2.31 to 5.84 between steps 311 and 320; the log ends 2 rows later.",
        evidence=(),
        root_cause="",
        hypotheses=(
            Hypothesis("long_tail_tokens", "Long-tail token outlier", 0.38, 0.5, "weak", (3,), (), ("garbage_data",)),
            Hypothesis("garbage_data", "Garbage data", 0.33, 0.3, "weak", (3,), (), ("long_tail_tokens",)),
            Hypothesis("unknown", "None of the causes known here", 0.29, 0.2, "weak"),
        ),
        not_known="Not known yet: long_tail_tokens and garbage_data predict the same panels; replaying step 320 with "
        "only its rare tokens masked would decide.",
        watch="a loss above 2.52 at step 370 would make this a rollback to step 300 now.",
        changes=(),
        verification=None,
        lesson="",
        skip_window=None,
        checkpoint="",
        samples=(),
    )
    return _diagnosis("hf-trainer-7", (incident,), log_every=10, dtype="", seed=None, world=None, verdict="undecided")


def several() -> Diagnosis:
    """Three incidents, one of them in a segment that was rolled back."""
    first = spike().incidents[0]
    second = replace(
        first,
        id=2,
        kind="lr_discontinuity",
        title="learning-rate discontinuity",
        onset_step=700,
        peak_step=700,
        recovery_step=None,
        outcome="lingering",
        hypotheses=(Hypothesis("lr_discontinuity", "LR schedule bug", 0.7, 2.0, "moderate", (2,)),),
        samples=(),
    )
    third = replace(first, id=3, kind="logging_gap", title="", onset_step=40, peak_step=41, recovery_step=42)
    third = replace(third, discarded=True, hypotheses=())
    base = _diagnosis("three-things", (first, second, third))
    run = replace(base.run, segments=("attempt 0: steps 0 to 420, kept until 299", "attempt 1: steps 300 to 999"))
    return replace(base, run=run, notes=("metrics.csv:412: a torn last line was left out.",))


def clean() -> Diagnosis:
    """Nothing happened."""
    return replace(
        _diagnosis("clean-000", (), verdict="no_incident"),
        quiet_panels=tuple(
            replace(p, moved=False, summary="within its baseline.") if not p.silent else p for p in panels()
        ),
    )


HOSTILE = (
    "\x1b[31mx|`y`<img src=x onerror=alert(1)>{{ 7*7 }}{% raw %}[a](http://evil.test)\u202e# h\n## Notes\n$x$ _e_ **b**"
)


def hostile(name: str = HOSTILE) -> Diagnosis:
    """The spike, with every name a stranger may choose turned against the reader."""
    base = spike()
    i = base.incidents[0]
    reading = replace(i.panels[2], title=name, summary=name, image="javascript:alert(1)")
    bad = replace(
        i,
        kind=name,
        title=name,
        summary=name,
        overview="http://evil.test/x.png",
        lesson=name,
        root_cause=name,
        checkpoint=name,
        symptoms=tuple(replace(s, text=name, origin=name) for s in i.symptoms),
        evidence=tuple(replace(e, text=name, origin=name) for e in i.evidence),
        hypotheses=tuple(replace(h, title=name) for h in i.hypotheses),
        panels=(*i.panels[:2], reading, *i.panels[3:]),
        changes=(Remedy(name, name), Remedy(name, declined=name)),
        verification=Verification(
            42, 0.05, 2.31, 500, (VerificationCheck("loss", 1, 2, "<", 1.0, name),), "a\n```\n" + name
        ),
        samples=(Sample(name, name, (Token(name, True, 9.0),)),),
    )
    return replace(
        base,
        run_id=name,
        incidents=(bad, replace(bad, id=2)),
        notes=(name,),
        run=replace(base.run, run_id=name, source=name, dtype=name, segments=(name, name)),
    )


CASES = {"spike": spike, "nan": nan, "undecided": undecided, "several": several, "clean": clean, "hostile": hostile}


def _diagnosis(
    run_id: str,
    incidents: tuple[Incident, ...],
    *,
    verdict: Verdict = "supported",
    log_every: int = 1,
    dtype: str = "fp32",
    seed: int | None = 42,
    world: int | None = 1,
) -> Diagnosis:
    facts = RunFacts(
        run_id=run_id,
        source="run directory",
        rows=2000 // log_every,
        first_step=0,
        last_step=1999,
        log_every=log_every,
        seed=seed,
        dtype=dtype,
        world_size=world,
        date="2026-11-20",
    )
    return Diagnosis(SCHEMA_VERSION, "postmortem 0.1.0", run_id, verdict, facts, incidents, ())
