"""Forged proofs of a run of tests.replay.rogue_program: what somebody may do to a proof, its replays and its run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from postmortem.proof.decision import Outcome
from postmortem.proof.stored_proofs import FILE

CASE_13: dict[str, Any] = {
    "verdict": "confirmed",
    "cause": "lr_too_high",
    "text": "everything was proven ![x](http://evil.example)",
    "experiments": [],
}
MASK, MOVE, NULL, SKIP = "R1-mask-110-111", "R3-move-110-111-130", "R0", "R2-skip-109-110"


def replays(run: Path) -> Path:
    return run / "postmortem" / "replays" / "prove-110"


def edit_json(file: Path, edit: Callable[[Any], object]) -> None:
    value = json.loads(file.read_text())
    edit(value)
    file.write_text(json.dumps(value))


def edit_proof(run: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    edit_json(run / FILE, lambda value: edit(value["proofs"][0]))


def claim_of(proof: dict[str, Any], name: str) -> dict[str, Any]:
    (claim,) = [one for one in proof["experiments"] if one["run"].endswith(f"/{name}")]
    return claim


def change_loss(folder: Path, step: int) -> None:
    """Write another loss into the rows of one step; the file is replaced, since a replay shares its parent's."""
    for part in sorted((folder / "metrics").glob("*.parquet")):
        table = pq.read_table(part)
        here = pc.equal(table["step"], step)
        changed = pc.if_else(here, pc.add(table["loss"], 0.25), table["loss"])
        part.unlink()
        pq.write_table(table.set_column(table.schema.get_field_index("loss"), "loss", changed), part)


def table_of(folder: Path) -> pa.Table:
    parts = [pq.read_table(part) for part in sorted(folder.glob("*.parquet"))]
    return pa.concat_tables(parts, promote_options="default")


def copy_rows(source: Path, target: Path, start: int) -> None:
    """Put the rows of `source` from step `start` on into `target`, as the rows of its own newest attempt."""
    for name in ("metrics", "batches"):
        theirs, ours = table_of(source / name), table_of(target / name)
        mine, last = pc.max(ours["attempt"]).as_py(), pc.max(theirs["attempt"]).as_py()
        chosen = theirs.filter(pc.and_(pc.equal(theirs["attempt"], last), pc.greater_equal(theirs["step"], start)))
        attempts = pa.array([mine] * len(chosen), ours["attempt"].type)
        chosen = chosen.set_column(chosen.schema.get_field_index("attempt"), "attempt", attempts)
        kept = ours.filter(pc.less(ours["attempt"], mine))
        for part in (target / name).glob("*.parquet"):
            part.unlink()
        rows = pa.concat_tables([kept, chosen], promote_options="default")
        pq.write_table(rows, target / name / "part-000001.parquet")


def equal_result(folder: Path) -> None:
    """Let the result say that nothing differed."""
    edit_json(folder / "replayed.json", lambda result: result.update(differences=[], departed={}))


def gone(name: str) -> Callable[[Path, Path], object]:
    return lambda run, _: shutil.rmtree(replays(run) / name if name else replays(run))


def cut_result(run: Path, _: Path) -> None:
    (replays(run) / MASK / "replayed.json").unlink()


def link_outside(run: Path, sibling: Path) -> None:
    outside = run.parent / "outside"
    (replays(run) / MASK).rename(outside)
    (replays(run) / MASK).symlink_to(outside)


def name_outside(run: Path, _: Path) -> None:
    shutil.copytree(replays(run), run.parent / "outside")

    def lead_out(proof: dict[str, Any]) -> None:
        for claim in proof["experiments"]:
            claim["run"] = f"../outside/{Path(claim['run']).name}"

    edit_proof(run, lead_out)


def made_up(run: Path, _: Path) -> None:
    def rename(proof: dict[str, Any]) -> None:
        for claim in proof["experiments"]:
            claim["run"] = f"postmortem/replays/made-up/{Path(claim['run']).name}"

    edit_proof(run, rename)


def of_another_run(run: Path, sibling: Path) -> None:
    """The replays and the proof come to lie beside a run that is alike up to the incident."""
    kept = run.parent / "kept"
    (run / "postmortem").rename(kept)
    shutil.rmtree(run)
    shutil.copytree(sibling, run, symlinks=True)
    kept.rename(run / "postmortem")


def swap_folders(run: Path, _: Path) -> None:
    def swap(proof: dict[str, Any]) -> None:
        mask, move = claim_of(proof, MASK), claim_of(proof, MOVE)
        mask["run"], move["run"] = move["run"], mask["run"]

    edit_proof(run, swap)


def copy_whole_parent(run: Path, _: Path) -> None:
    """The folder of a placebo is R0 with its own two JSON files."""
    kept = {name: (replays(run) / SKIP / name).read_text() for name in ("replay.json", "replayed.json")}
    shutil.rmtree(replays(run) / SKIP)
    shutil.copytree(replays(run) / NULL, replays(run) / SKIP, symlinks=True)
    for name, text in kept.items():
        (replays(run) / SKIP / name).write_text(text)


def copy_parent_rows(name: str) -> Callable[[Path, Path], None]:
    def forge(run: Path, _: Path) -> None:
        copy_rows(replays(run) / NULL, replays(run) / name, 103)
        equal_result(replays(run) / name)

    return forge


def null_as_copy_of_the_run(run: Path, _: Path) -> None:
    shutil.rmtree(replays(run) / NULL / "metrics")
    shutil.copytree(run / "metrics", replays(run) / NULL / "metrics")


GONE = {
    "all replays gone": (gone(""), "replays gone"),
    "one replay gone": (gone(MASK), "replays gone"),
    "a placebo gone": (gone(SKIP), "replays gone"),
    "the null replay gone": (gone(NULL), "replays gone"),
    "no result in a folder": (cut_result, "replays gone"),
    "made-up folders": (made_up, "replays gone"),
    "a link out of the run": (link_outside, "leads outside the run"),
    "a path out of the run": (name_outside, "leads outside the run"),
    "the run itself as a replay": (
        lambda run, _: edit_proof(run, lambda proof: claim_of(proof, MASK).update(run=".")),
        "is the run itself",
    ),
    "replays of another run": (of_another_run, "differ otherwise than when it was driven: batch_hash at step 110"),
    "folders swapped": (swap_folders, "another replay than the record says"),
    "another id": (
        lambda run, _: edit_json(run / "run.json", lambda manifest: manifest.update(id="another")),
        "is one of another run",
    ),
    "a copy of the parent": (copy_whole_parent, "is one of another run, or of other changes"),
    "a placebo with its parent's rows": (copy_parent_rows(SKIP), "are a copy"),
    "a null replay with the run's rows": (null_as_copy_of_the_run, "not those of its steps"),
    "a row before the replays edited": (
        lambda run, _: change_loss(run, 50),
        "not the run's: loss at step 50",
    ),
    "a row of the replayed steps edited": (
        lambda run, _: change_loss(run, 120),
        "differ otherwise than when it was driven: loss at step 120",
    ),
    "a row of a replay edited": (lambda run, _: change_loss(replays(run) / MASK, 105), "loss at step 105"),
    "a damaged spec": (lambda run, _: (replays(run) / MASK / "replay.json").write_text("{"), "cannot be read"),
    "an attempt that is none": (
        lambda run, _: edit_json(replays(run) / NULL / "replay.json", lambda spec: spec.update(attempt=7)),
        "is one of another run",
    ),
    "steps without end": (
        lambda run, _: (
            edit_json(replays(run) / MASK / "replay.json", lambda spec: spec.update(until=10**300)),
            edit_json(replays(run) / MASK / "replayed.json", lambda result: result.update(until=10**300)),
            edit_proof(run, lambda proof: claim_of(proof, MASK).update(steps=10**300 - 103)),
        ),
        "not those of its steps",
    ),
}


def no_replays(proof: dict[str, Any]) -> None:
    proof["experiments"] = []


def other_cause(proof: dict[str, Any]) -> None:
    proof["cause"] = "garbage_data"


def recorded(**outcomes: Outcome) -> Callable[[dict[str, Any]], None]:
    """Other outcomes on record, by the name of a change."""

    def forge(proof: dict[str, Any]) -> None:
        for claim in proof["experiments"]:
            name = (claim["changes"] or ["none"])[0].partition("=")[0]
            claim["outcome"] = outcomes.get(name, claim["outcome"])

    return forge


CONTRADICTIONS: dict[str, tuple[Callable[[dict[str, Any]], object], bool, str]] = {
    "no experiments": (no_replays, True, "names no null replay"),
    "no null replay": (
        lambda proof: proof["experiments"].remove(claim_of(proof, NULL)), True, "names no null replay"
    ),
    "another cause": (other_cause, True, "its replays show confirmed: long_tail_tokens"),
    "another verdict": (
        lambda proof: proof.update(verdict="refuted", cause=""), True, "its replays show confirmed: long_tail_tokens"
    ),
    "another cause, replays gone": (other_cause, False, "no panel suggests garbage_data"),
    "a cause that no panel suggests": (
        lambda proof: proof.update(cause="lr_too_high"), False, "no panel suggests lr_too_high"
    ),
    "no cure on record": (recorded(mask="persists"), False, "do not prove long_tail_tokens"),
    "a placebo that cures": (recorded(skip="cured"), False, "do not prove long_tail_tokens"),
    "a null replay without the incident": (recorded(none="vanished"), False, "does not show the incident"),
    "a bit flip by one null replay": (
        lambda proof: proof.update(verdict="not_reproducible", cause="long_tail_tokens"), False, "do not say so"
    ),
    "refuted, replays gone": (lambda proof: proof.update(verdict="refuted", cause=""), False, "only as proven on 20"),
    "a change that does not exist": (
        lambda proof: claim_of(proof, NULL).update(changes=["gremlins=1"]), False, ""
    ),
}  # fmt: skip
