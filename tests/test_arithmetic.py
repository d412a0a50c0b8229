"""What bits depend on: told apart by a fingerprint, and taken over by the next process."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from postmortem import arithmetic
from postmortem.arithmetic import KERNELS, Arithmetic, arithmetic_of, describe_differences
from tests.samples import ROOT

X86 = "x86_64"
AVX2_ONLY = frozenset(("avx2", "fma"))
AVX512 = AVX2_ONLY | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
THEN: dict[str, Any] = {"torch": "2.8.0", "cpu": X86, "cpu_capability": "AVX2", "threads": 3, "fingerprint": "1:ab"}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine of AVX-512 with the run's torch, which is not imported yet."""
    monkeypatch.setattr(arithmetic, "_processor_flags", lambda: AVX512)
    monkeypatch.setattr(arithmetic, "_installed", lambda: "2.8.0+cpu")
    monkeypatch.setattr(arithmetic.platform, "machine", lambda: X86)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    return monkeypatch


def taken(**more: Any) -> Arithmetic:
    return arithmetic_of({**THEN, **more})


class TestTakenOver:
    def test_what_is_lesser_is_set_for_every_library(self, here: pytest.MonkeyPatch) -> None:
        found = taken()
        assert found.text == "as recorded: AVX2, 3 threads" and found.threads == 3 and found.missing == ()
        environment = found.environ({"MKL_CBWR": "AUTO", "ATEN_CPU_CAPABILITY": "default", "HOME": "h"})
        limits = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
        assert environment == {"HOME": "h", **limits}

    def test_on_its_own_kind_of_processor_nothing_else_is_held_back(self, here: pytest.MonkeyPatch) -> None:
        assert taken(cpu_capability="AVX512").environ({"ONEDNN_MAX_CPU_ISA": "AVX2"}) == {
            "ATEN_CPU_CAPABILITY": "avx512"
        }
        here.setattr(arithmetic, "_processor_flags", lambda: AVX2_ONLY)
        assert taken().environ({}) == {"ATEN_CPU_CAPABILITY": "avx2"}

    def test_what_the_run_had_set_is_set_and_no_more(self, here: pytest.MonkeyPatch) -> None:
        kernels = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE"}
        assert taken(kernels=kernels).environ({"ONEDNN_MAX_CPU_ISA": "AVX2"}) == kernels

    def test_variables_that_choose_no_kernel_are_not_a_run_s_to_set(self, here: pytest.MonkeyPatch) -> None:
        found = taken(kernels={"LD_PRELOAD": "evil.so", "PATH": "x"})
        assert not {"LD_PRELOAD", "PATH"} & set(found.variables) and set(found.variables) == set(KERNELS)

    @pytest.mark.parametrize("value", ["a\0b", "a\nb", "x" * 65, "", 5, None, ["AVX2"], "\u0661"])
    def test_a_value_that_is_none_is_not_set(self, here: pytest.MonkeyPatch, value: object) -> None:
        assert taken(kernels={"MKL_CBWR": value}).variables["MKL_CBWR"] is None

    def test_native_leaves_everything_as_it_is(self, here: pytest.MonkeyPatch) -> None:
        found = arithmetic_of(THEN, "native")
        assert found.environ({"MKL_CBWR": "AUTO"}) == {"MKL_CBWR": "AUTO"} and found.threads is None
        assert found.text == "this machine's own, as asked for"

    def test_a_run_that_says_nothing(self, here: pytest.MonkeyPatch) -> None:
        silent = "this machine's own: the run does not say what it computed with"
        assert arithmetic_of({}).text == silent == arithmetic_of({"torch": "2.8.0", "cpu_capability": None}).text
        assert arithmetic_of({**THEN, "threads": "many", "kernels": 3}).text == "as recorded: AVX2"
        assert arithmetic_of({**THEN, "threads": 10**9}).threads is None

    def test_adopting_changes_this_process_only_before_torch(self, here: pytest.MonkeyPatch) -> None:
        here.setattr(os, "environ", {"MKL_CBWR": "AUTO", "HOME": "h"})
        here.setitem(sys.modules, "torch", ModuleType("torch"))
        Arithmetic("", {"MKL_CBWR": None}).adopt()
        assert os.environ == {"MKL_CBWR": "AUTO", "HOME": "h"}
        here.delitem(sys.modules, "torch")
        Arithmetic("", {"MKL_CBWR": None, "ONEDNN_MAX_CPU_ISA": "AVX2"}).adopt()
        assert os.environ == {"ONEDNN_MAX_CPU_ISA": "AVX2", "HOME": "h"}


class TestMissing:
    @pytest.mark.parametrize(
        ("then", "missing"),
        [
            ({"cpu_capability": "AVX512"}, "AVX512 (this processor has no such kernels)"),
            ({"cpu_capability": "AVX1024"}, "AVX1024 (this processor has no such kernels)"),
            ({"torch": "1.0.0"}, "torch 1.0.0 (2.8.0+cpu here)"),
            ({"torch": "2.8.0+cu128"}, "torch 2.8.0+cu128 (2.8.0+cpu here)"),
            ({"cpu": "riscv64"}, "riscv64 (x86_64 here)"),
        ],
    )
    def test_it_is_named_and_the_rest_taken_over(
        self, here: pytest.MonkeyPatch, then: dict[str, str], missing: str
    ) -> None:
        here.setattr(arithmetic, "_processor_flags", lambda: AVX2_ONLY)
        found = taken(**then)
        assert found.missing == (missing,) and found.threads == 3
        assert found.text.startswith("as recorded where this machine can (") and "3 threads" in found.text
        assert found.text.endswith(f"but not {missing}: bits cannot be expected")

    @pytest.mark.parametrize("capability", ["AVX512", "AVX1024"])
    def test_kernels_that_the_processor_has_not_are_never_forced_on_it(
        self, here: pytest.MonkeyPatch, capability: str
    ) -> None:
        here.setattr(arithmetic, "_processor_flags", lambda: AVX2_ONLY)
        kernels = {"ATEN_CPU_CAPABILITY": "avx512", "OPENBLAS_CORETYPE": "SkylakeX", "MKL_CBWR": "AVX512"}
        assert taken(cpu_capability=capability, kernels=kernels).environ({}) == {}

    def test_where_only_torch_knows_nothing_is_claimed(self, here: pytest.MonkeyPatch) -> None:
        here.setattr(arithmetic, "_processor_flags", lambda: None)
        found = taken(kernels={"ATEN_CPU_CAPABILITY": "avx2"})
        assert found.text == "as recorded: AVX2 if torch has it here, 3 threads" and found.environ({}) == {}
        here.setattr(arithmetic.platform, "machine", lambda: "aarch64")
        assert taken(cpu="aarch64", cpu_capability="SVE256").text.startswith("as recorded: SVE256 if torch has it here")

    @pytest.mark.parametrize("torch", ["2.8.0", "2.8.0+cpu"])
    def test_a_build_that_one_side_does_not_name_is_not_missing(self, here: pytest.MonkeyPatch, torch: str) -> None:
        assert taken(torch=torch).missing == ()
        here.setattr(arithmetic, "_installed", lambda: "2.8.0")
        assert taken(torch=torch).missing == ()

    def test_torch_that_is_imported_has_chosen(self, here: pytest.MonkeyPatch) -> None:
        chose = SimpleNamespace(get_cpu_capability=lambda: "AVX512")
        here.setitem(sys.modules, "torch", SimpleNamespace(backends=SimpleNamespace(cpu=chose)))
        then = {**THEN, "cpu_capability": "AVX512"}
        assert arithmetic_of(THEN, here=True).missing == ("AVX2 (torch was imported before, with AVX512)",)
        assert arithmetic_of(then, here=True).missing == () == taken().missing, "processes that are started choose anew"

    def test_a_hostile_manifest_does_nothing_to_a_terminal(self, here: pytest.MonkeyPatch) -> None:
        for key in ("torch", "cpu", "cpu_capability"):
            assert "\x1b" not in taken(**{key: "a\x1b[2J" * 40}).text


class TestDifferences:
    def test_what_accounts_for_a_fingerprint_is_said_in_its_stead(self) -> None:
        now = {**THEN, "torch": "2.13.0", "fingerprint": "1:cd"}
        assert describe_differences(THEN, now) == ("torch 2.8.0 then, 2.13.0 now",)
        assert describe_differences(THEN, {**THEN, "cpu_capability": "AVX512"}) == ("kernels AVX2 then, AVX512 now",)

    def test_the_fingerprint_alone(self) -> None:
        assert describe_differences(THEN, THEN) == ()
        told = "fingerprint of its kernels 1:ab then, 1:cd now"
        assert describe_differences(THEN, {**THEN, "fingerprint": "1:cd"}) == (told,)
        assert describe_differences(THEN, {**THEN, "fingerprint": "1:cd", "threads": 1}) == (
            "threads 3 then, 1 now",
            told,
        )

    def test_what_the_run_does_not_say_is_not_taken_for_equal(self) -> None:
        assert describe_differences({}, THEN) == ("torch and processor then unknown",)
        old = {key: value for key, value in THEN.items() if key != "fingerprint"}
        unknown = ("kernels of its libraries then unknown",)
        assert describe_differences(old, THEN) == unknown == describe_differences(THEN, {**THEN, "fingerprint": "2:ab"})


@pytest.mark.bits
class TestFingerprint:
    @pytest.fixture(autouse=True)
    def _torch(self) -> None:
        pytest.importorskip("torch")

    def fingerprint(self, **variables: str) -> str:
        return self.printed(
            "import torch; from postmortem import arithmetic; print(arithmetic.measure_arithmetic()['fingerprint'])",
            **variables,
        ).strip()

    def printed(self, code: str, **variables: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name not in KERNELS}
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        ).stdout

    def test_it_repeats_itself_and_is_of_sixteen_digits(self) -> None:
        first = arithmetic.measure_arithmetic()["fingerprint"]
        assert (
            first == arithmetic.measure_arithmetic()["fingerprint"]
            and len(bytes.fromhex(first.removeprefix("1:"))) == 8
        )

    def test_it_draws_nothing_and_leaves_autocast_as_it_was(self) -> None:
        import torch

        before, plain = torch.get_rng_state(), arithmetic.measure_arithmetic()["fingerprint"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert arithmetic.measure_arithmetic()["fingerprint"] == plain and torch.is_autocast_enabled("cpu")
        assert torch.equal(before, torch.get_rng_state())

    @pytest.mark.processes
    def test_it_belongs_to_a_number_of_threads(self) -> None:
        """Some BLAS split a product over two threads, so it is compared with one of as many."""
        code = "import torch; from postmortem.arithmetic import measure_arithmetic\n"
        code += "for n in (1, 2, 8, 16, 8, 2, 1): torch.set_num_threads(n); print(measure_arithmetic()['fingerprint'])"
        once, again = self.printed(code).split(), self.printed(code).split()
        assert once == again == once[::-1]

    @pytest.mark.processes
    def test_instructions_and_the_choice_of_a_blas_are(self) -> None:
        import torch

        if not arithmetic._processor_supports("AVX2"):
            pytest.skip("this processor has one kind of kernels")
        assert self.fingerprint(ATEN_CPU_CAPABILITY="avx2") != self.fingerprint(ATEN_CPU_CAPABILITY="default")
        if torch.backends.mkl.is_available():
            assert self.fingerprint() != self.fingerprint(MKL_CBWR="COMPATIBLE")
