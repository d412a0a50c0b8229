"""Each intervention does what it says and nothing else; what holds for all of them is asked of whatever there is."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from postmortem.change import Change
from postmortem.errors import UsageError
from postmortem.interventions import Intervention, ReplayContext, build_intervention, intervention_classes, parse_change
from postmortem.interventions.mask import concentrated_tokens
from postmortem.lab.program import build
from postmortem.program import Edit
from postmortem.record.writer import RunWriter
from postmortem.run import Run
from postmortem.run.recorded import RecordedRun
from postmortem.run.replayed import ReplayResult
from postmortem.sources import open_run
from tests.replay.small import column, drive, drive_as_recorded, small_run
from tests.samples import ROOT, sample

pytestmark = pytest.mark.bits
SPIKE, JUMP, RESET, NAN = (sample(name) for name in ("19-spike-001", "20-run-002", "20-run-003", "20-run-004"))
USUAL = {  # a value that each accepts; a new intervention has to stand here
    "beta2": "0.95",
    "clip": "0.5",
    "distinct": "",
    "drop-rows": "312:313@0,1",
    "lr-scale": "0.5",
    "lr-smooth": "700",
    "mask": "312:313",
    "moments": "restored",
    "move": "312:313@330",
    "noise": "7",
    "precision": "fp16",
    "replace": "312:313",
    "set": "optimizer.clip=0.1",
    "skip": "312:314,320:322",
    "state": "200",
    "unmask": "312:313",
}


class TestAll:
    @pytest.mark.parametrize("name", sorted(intervention_classes()))
    def test_it_says_what_it_is(self, name: str) -> None:
        kind = intervention_classes()[name]
        assert issubclass(kind, Intervention) and kind.name == name
        assert kind.summary and kind.summary[0].islower() and not kind.summary.endswith(".")
        assert kind.__doc__ and kind.__doc__ != Intervention.__doc__
        text = build_intervention(Change.from_text(f"{name}={USUAL[name]}")).text
        assert text and "\n" not in text and len(text) < 100

    @pytest.mark.parametrize("name", sorted(intervention_classes()))
    @pytest.mark.parametrize("value", ["nonsense!", "-1", "9:3", "nan", "1e999", "٣", "3:4:5", "=", "@"])
    def test_a_value_that_cannot_be_meant_is_one_message(self, name: str, value: str) -> None:
        try:
            made = build_intervention(parse_change(f"{name}={value}"))
        except UsageError as error:
            assert "\n" not in str(error) and name in str(error)
        else:
            assert name == "set" or made.text, f"{name} takes {value!r}"
            assert value not in ("nonsense!", "9:3", "@"), f"{name} takes {value!r}"

    def test_an_unknown_name_names_those_there_are(self) -> None:
        with pytest.raises(UsageError, match="there is no intervention 'lr-halve'; the interventions are beta2, clip,"):
            parse_change("lr-halve=2")

    def test_every_change_has_to_stand_here_and_in_the_guide(self) -> None:
        assert sorted(USUAL) == sorted(intervention_classes())
        guide = (ROOT / "docs" / "replay.md").read_text()
        assert [name for name in intervention_classes() if f"`{name}`" not in guide] == []


def replayed(
    tmp_path: Path, change: str, run: Path = SPIKE, first: int = 300, until: int = 316
) -> tuple[ReplayResult, Run]:
    """In the run's own arithmetic: what comes before a change is the run, bit for bit."""
    result = drive_as_recorded(run, tmp_path / "out", first, until, change)
    return result, open_run(tmp_path / "out")


def first_of(result: ReplayResult) -> dict[str, int]:
    return {one.column: one.step for one in result.differences}


@pytest.mark.processes
class TestData:
    def test_skip(self, tmp_path: Path) -> None:
        result, run = replayed(tmp_path, "skip=305:307,312:313")
        assert [column(run, "batch_index", step) for step in range(304, 316)] == [
            304, 307, 308, 309, 310, 311, 313, 314, 315, 316, 317, 318,
        ]  # fmt: skip
        assert first_of(result)["batch_hash"] == 305
        assert column(run, "batch_hash", 310) == column(SPIKE, "batch_hash", 313)

    def test_replace(self, tmp_path: Path) -> None:
        result, run = replayed(tmp_path, "replace=312:313@500")
        assert column(run, "batch_hash", 312) == column(SPIKE, "batch_hash", 500)
        assert column(run, "batch_index", 312) == 312
        assert result.departed["batch_hash"] == 1 and column(run, "loss", 312) < 1.7

    def test_replaced_by_a_batch_that_the_run_never_consumed(self, tmp_path: Path) -> None:
        _, run = replayed(tmp_path, "replace=312:313")
        labels = open_run(SPIKE).labels("batch_hash")
        assert labels is not None and column(run, "batch_hash", 312) not in set(labels.value)

    def test_move(self, tmp_path: Path) -> None:
        result, run = replayed(tmp_path, "move=312:313@304")
        assert column(run, "batch_hash", 304) == column(SPIKE, "batch_hash", 312)
        assert column(run, "batch_hash", 312) == column(SPIKE, "batch_hash", 304)
        assert result.departed["batch_hash"] == 2 and column(run, "loss", 304) > 2.5 > column(run, "loss", 312)

    def test_mask(self, tmp_path: Path) -> None:
        result, run = replayed(tmp_path, "mask=312:313")
        assert 0 < column(run, "valid_labels", 312) < column(SPIKE, "valid_labels", 312)
        assert column(run, "valid_labels", 311) == column(SPIKE, "valid_labels", 311)
        assert first_of(result)["loss"] == 312 and column(run, "loss", 312) < 0.8 * column(SPIKE, "loss", 312)

    def test_mask_takes_what_stands_out_against_the_past(self) -> None:
        from collections import Counter

        past = Counter({1: 500, 2: 499, 3: 1})
        assert concentrated_tokens(Counter({1: 5, 2: 4, 3: 3, 9: 2}), past) == {3, 9}

    def test_drop_rows_that_are_named(self, tmp_path: Path) -> None:
        result, run = replayed(tmp_path, "drop-rows=312:313@0,1")
        assert column(run, "tokens", 312) < column(SPIKE, "tokens", 312)
        assert first_of(result)["loss"] == 312

    def test_drop_rows_that_are_not_finite(self, tmp_path: Path) -> None:
        _, run = replayed(tmp_path, "drop-rows=905:906", NAN, 900, 908)
        assert not math.isfinite(column(NAN, "grad_norm", 905)) and math.isfinite(column(run, "grad_norm", 905))
        assert all(math.isfinite(column(run, "loss", step)) for step in range(900, 908))
        assert column(run, "tokens", 904) == column(NAN, "tokens", 904)

    def test_all_rows_cannot_be_dropped(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="batch 312 has no other rows"):
            drive(SPIKE, tmp_path / "out", 300, 316, "drop-rows=312:313@" + ",".join(map(str, range(8))))

    def test_unmask(self) -> None:
        program = build(open_run(SPIKE).manifest.config)
        ordinary = program.batch(3)
        empty = program.edited(ordinary, Edit(masked_tokens=frozenset(range(1000))))
        context = ReplayContext(RecordedRun(open_run(SPIKE)), 0, 10, lambda _: {})
        assert sum(map(len, program.labels(empty))) == 0
        assert (
            sum(
                map(
                    len,
                    program.labels(build_intervention(Change.from_text("unmask=3:4")).batch(program, context, empty)),
                )
            )
            > 0
        )
        assert build_intervention(Change.from_text("unmask=4:5")).batch(program, context, empty) is empty

    def test_distinct(self, tmp_path: Path) -> None:
        with RunWriter(tmp_path / "run") as writer:
            for step, text in enumerate("abcdefghaxcyzb"):
                writer.log(step, {"loss": 1.0})
                writer.batch(step, {"batch_index": step, "batch_hash": text})
        context = ReplayContext(RecordedRun(open_run(tmp_path / "run")), 3, 14, lambda _: {})
        assert build_intervention(Change("distinct")).windows(context) == ((8, 9), (10, 11), (13, 14))
        assert build_intervention(Change.from_text("distinct=9:12")).windows(context) == ((10, 11),)

    def test_a_program_whose_batches_cannot_be_changed_is_told(self, tmp_path: Path) -> None:
        run = small_run(tmp_path / "run")
        with pytest.raises(UsageError, match=r"offers no edited\(batch, edit\)"):
            drive(run, tmp_path / "out", 4, 12, "mask=6:7")


@pytest.mark.processes
class TestUpdate:
    @pytest.mark.parametrize("change", ["lr-scale=0.5", "clip=0.05", "beta2=0.9", "lr-smooth=290"])
    def test_it_acts_from_the_first_update_on_and_not_before(self, tmp_path: Path, change: str) -> None:
        result, _ = replayed(tmp_path, change, until=303)
        first = first_of(result)
        assert first["param_hash"] == 300 and first["loss"] == 301 and "batch_hash" not in first

    def test_lr_scale(self, tmp_path: Path) -> None:
        _, run = replayed(tmp_path, "lr-scale=0.5", until=303)
        for step in (300, 301, 302):  # of its own rate each time: scales do not pile up
            assert column(run, "lr", step) == pytest.approx(0.5 * column(SPIKE, "lr", step))
        size = column(SPIKE, "update_rms", 300)
        assert column(run, "update_rms", 300) == pytest.approx(size, rel=1e-3), "per unit of the rate that was used"

    def test_a_rate_that_nobody_sets_anew_is_scaled_once(self, tmp_path: Path) -> None:
        run = small_run(tmp_path / "run")
        once = drive(run, tmp_path / "a", 4, 12, "lr-scale=2")
        from tests.replay import ranks_program

        program = ranks_program.build({})
        for index in range(12):
            if index == 4:
                program.optimizers[0].param_groups[0]["lr"] *= 2
            program.step(program.batch(index))
        program.optimizers[0].param_groups[0]["lr"] /= 2
        from postmortem.program_state import digest

        assert once.state == digest(program.state_dict())

    def test_lr_smooth(self, tmp_path: Path) -> None:
        _, run = replayed(tmp_path, "lr-smooth=700", JUMP, 700, 703)
        before, jumped = column(JUMP, "lr", 699), column(JUMP, "lr", 700)
        assert jumped > 10 * before
        assert column(run, "lr", 700) == pytest.approx(before, rel=0.01)

    def test_clip(self, tmp_path: Path) -> None:
        _, run = replayed(tmp_path, "clip=0.05", until=303)
        assert column(run, "clip_threshold", 301) == 0.05 == column(run, "grad_norm_clipped", 301)
        assert column(run, "grad_norm", 300) == column(SPIKE, "grad_norm", 300)

    def test_a_program_without_optimizers_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from tests.replay.counted import Counted

        run = small_run(tmp_path / "run")
        monkeypatch.delattr(Counted, "optimizers")
        with pytest.raises(UsageError, match="offers no optimizers"):
            drive(run, tmp_path / "out", 4, 12, "lr-scale=0.5")


@pytest.mark.processes
class TestConfig:
    def test_precision(self, tmp_path: Path) -> None:
        _, run = replayed(tmp_path, "precision=fp16", until=302)
        assert open_run(SPIKE).series("loss_scale") is None
        assert column(run, "loss_scale", 300) is not None

    @pytest.mark.parametrize(
        ("config", "changed"),
        [
            ({"precision": "fp32"}, {"precision": "bf16"}),
            ({"trainer": {"precision": "16-mixed"}}, {"trainer": {"precision": "bf16-mixed"}}),
            ({"fp16": True, "bf16": False}, {"fp16": False, "bf16": True}),
            ({"model": {"dtype": "float16"}, "x": 1}, {"model": {"dtype": "bfloat16"}, "x": 1}),
        ],
    )
    def test_precision_in_the_words_of_the_config(self, config: dict[str, object], changed: dict[str, object]) -> None:
        assert build_intervention(Change.from_text("precision=bf16")).configured(config) == changed

    def test_a_config_without_a_precision_is_told(self) -> None:
        with pytest.raises(UsageError, match="has none of precision, dtype"):
            build_intervention(Change.from_text("precision=bf16")).configured({"lr": 1.0})

    def test_set(self, tmp_path: Path) -> None:
        _, run = replayed(tmp_path, "set=optimizer.clip=0.1", until=302)
        assert column(run, "clip_threshold", 300) == 0.1
        with pytest.raises(UsageError, match="no such key"):
            build_intervention(Change.from_text("set=optimizer.clap=0.1")).configured({"optimizer": {"clip": 1.0}})


@pytest.mark.processes
class TestState:
    def test_noise_is_the_last_bit_and_its_seed(self, tmp_path: Path) -> None:
        one = drive(SPIKE, tmp_path / "a", 300, 304, "noise=1")
        again = drive(SPIKE, tmp_path / "b", 300, 304, "noise=1")
        other = drive(SPIKE, tmp_path / "c", 300, 304, "noise=2")
        assert one.state == again.state != other.state
        gap = abs(column(tmp_path / "a", "loss", 300) - column(SPIKE, "loss", 300))
        assert gap < 1e-4 and first_of(one)["param_hash"] == 300 and "batch_hash" not in first_of(one)

    def test_the_state_of_another_checkpoint(self, tmp_path: Path) -> None:
        drive(SPIKE, tmp_path / "out", 300, 302, "state=200")
        run = open_run(tmp_path / "out")
        program = build(open_run(SPIKE).manifest.config)
        from postmortem.checkpoint import load_checkpoint

        program.load_state_dict(load_checkpoint(SPIKE / "rollback" / "step-00000300.dcp"))
        older = load_checkpoint(SPIKE / "rollback" / "step-00000200.dcp")
        program.load_state_dict({name: older[name] for name in ("model", "optimizer")})
        assert column(run, "loss", 300) == program.measure(program.batch(300)).metrics["loss"]
        assert column(run, "lr", 301) == column(SPIKE, "lr", 301), "the schedule goes on from where the replay starts"
        with pytest.raises(UsageError, match="no complete checkpoint of step 250"):
            drive(SPIKE, tmp_path / "other", 300, 302, "state=250")

    def test_moments_restored_where_a_resume_lost_them(self, tmp_path: Path) -> None:
        lost = drive_as_recorded(RESET, tmp_path / "lost", 500, 545)
        assert lost.exact, "the resume that lost them is done again"
        kept, run = replayed(tmp_path, "moments=restored", RESET, 500, 545)
        assert (column(RESET, "optimizer_step", 540), column(run, "optimizer_step", 540)) == (1, 541)
        assert first_of(kept)["param_hash"] == 540

    def test_moments_estimated_from_the_batches_before(self, tmp_path: Path) -> None:
        _, run = replayed(tmp_path, "moments=estimated:5", RESET, 540, 542)
        assert column(run, "optimizer_step", 540) == 6
        assert column(run, "loss", 540) == column(RESET, "loss", 540), "the parameters were held fast"


def test_changes_act_together(tmp_path: Path) -> None:
    drive(SPIKE, tmp_path / "out", 300, 314, "skip=312:313", "lr-scale=0.5", "clip=0.5")
    run = open_run(tmp_path / "out")
    assert column(run, "batch_index", 312) == 313
    assert column(run, "lr", 312) == pytest.approx(0.5 * column(SPIKE, "lr", 312))
    assert column(run, "clip_threshold", 312) == 0.5


FREEZE = '''"""Parameters of one module stay as they are."""
from postmortem.change import Change
from postmortem.interventions import Intervention
from postmortem.interventions._values import word


class Freeze(Intervention):
    """The module that is named is not updated."""

    name = "freeze"
    usage = "MODULE"
    summary = "leave the parameters of MODULE as they are"

    def __init__(self, change: Change) -> None:
        self._module = word(change, self.usage)

    @property
    def text(self) -> str:
        return f"freeze {self._module}"


INTERVENTION = Freeze
'''


class TestOneMoreFile:
    def test_is_one_more_change(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "freeze.py").write_text(FREEZE)
        package = importlib.import_module("postmortem.interventions")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        intervention_classes.cache_clear()
        try:
            change = parse_change("freeze=embedding")
            assert (
                change == Change("freeze", values=("embedding",))
                and build_intervention(change).text == "freeze embedding"
            )
            with pytest.raises(UsageError, match="freeze=3: expected freeze=MODULE"):
                parse_change("freeze=3")
        finally:
            intervention_classes.cache_clear()
            sys.modules.pop("postmortem.interventions.freeze", None)
