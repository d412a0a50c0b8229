"""What the bits of a training depend on besides its program: the kernels that compute it, and their threads.

A library chooses its kernels by the processor, and by variables of the environment, when it first computes. A process
that is to compute as a run did has to settle that before it imports torch: `arithmetic_of` says how, `adopt` does it.
Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

from postmortem.text import plain

Mode: TypeAlias = Literal["recorded", "native"]
"""Whose arithmetic a replay takes: that which the run recorded, or whatever this process has."""

MODES: tuple[Mode, ...] = get_args(Mode)
ARITHMETIC = ("torch", "cpu", "cpu_capability", "threads", "cuda", "rocm", "fingerprint")
"""Keys of run.json's `environment` on which bits depend. What is not listed shows in the fingerprint."""

_ATEN, _ONEDNN, _MKL = "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"
KERNELS = (
    _ATEN, _ONEDNN, "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", _MKL, "MKL_CBWR",
    "OPENBLAS_CORETYPE",
)  # fmt: skip
"""Variables of the environment by which libraries choose kernels."""

_FLAGS = {
    "DEFAULT": frozenset[str](),
    "AVX2": frozenset(("avx2", "fma")),
    "AVX512": frozenset(("avx512f", "avx512bw", "avx512dq", "avx512vl", "fma")),
}
"""What torch's kernels of a capability ask of an x86 processor. torch itself does not check what its variable says."""

_LESSER = {"AVX2": {_ONEDNN: "AVX2", _MKL: "AVX2"}}
"""What keeps the other libraries to the kernels of a processor that has no more than this capability."""

_MOST_THREADS = 1024
_DIGITS = 16  # of the fingerprint, hexadecimal


@dataclass(frozen=True)
class Arithmetic:
    """How a process computes as a run did, as far as this machine can.

    variables: of the environment, to be set before torch is imported; None is to be unset. threads: of one operation,
    None as the process has them. missing: what the run had and this machine has not. text: all of it in one line.
    """

    text: str
    variables: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])
    threads: int | None = None
    missing: tuple[str, ...] = ()

    def adopt(self) -> None:
        """Set this process's environment; it acts on what torch computes only where torch is not imported yet, and is
        left alone otherwise."""
        if "torch" not in sys.modules:
            os.environ.update(self.environ({}))
            for name in (name for name, value in self.variables.items() if value is None):
                os.environ.pop(name, None)

    def environ(self, base: Mapping[str, str]) -> dict[str, str]:
        """The environment `base` of a process that is to compute so."""
        kept = {name: value for name, value in base.items() if name not in self.variables}
        return kept | {name: value for name, value in self.variables.items() if value is not None}

    @property
    def key(self) -> str:
        """Tells it from others: where it differs, so may the bits of a process that this one starts."""
        environment = self.environ(os.environ)
        return f"{self.text} {[environment.get(name) for name in KERNELS]}"


OWN = Arithmetic("this machine's own, as asked for")


def arithmetic_of(environment: Mapping[str, Any], mode: Mode = "recorded") -> Arithmetic:
    """The arithmetic for replays of a run whose run.json tells of `environment`."""
    if mode == "native":
        return OWN
    if "torch" not in environment:
        return Arithmetic("this machine's own: the run does not say what it computed with")
    recorded = environment.get("kernels")
    kernels = cast("dict[str, Any]", recorded) if isinstance(recorded, dict) else {}
    variables = {name: str(kernels[name]) if name in kernels else None for name in KERNELS}
    threads = environment.get("threads")
    threads = threads if type(threads) is int and 0 < threads <= _MOST_THREADS else None
    wanted, missing = environment.get("cpu_capability"), list(_elsewhere(environment))
    had = [] if threads is None else [_threads(threads)]
    if isinstance(wanted, str):
        lacking = _lacking(wanted)
        if lacking:
            missing.append(f"{plain(wanted, 60)} ({lacking})")
        else:
            had.insert(0, plain(wanted, 60))
            if wanted in _FLAGS:
                limits = _LESSER.get(wanted, {}) if _ATEN not in kernels and _beyond(wanted) else {}
                variables |= {_ATEN: wanted.lower(), **limits}
    took = ", ".join(had) or "nothing"
    if missing:
        text = f"as recorded where this machine can ({took}), but not {', '.join(missing)}: bits cannot be expected"
        return Arithmetic(text, variables, threads, tuple(missing))
    return Arithmetic(f"as recorded: {took}", variables, threads)


def measured() -> dict[str, Any]:
    """What this process computes with, for `environment` in run.json; empty before torch is imported."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    kernels = {name: os.environ[name] for name in KERNELS if name in os.environ}
    versions = {"cuda": torch.version.cuda, "rocm": torch.version.hip, "fingerprint": _fingerprint(torch)}
    return {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **({"kernels": kernels} if kernels else {}),
        **{name: value for name, value in versions.items() if value},
    }


def described() -> str:
    """What this process computes with: "torch 2.13.0+cpu, AVX2, 1 thread, fingerprint 0123456789abcdef"."""
    own = measured()
    if not own:
        return ""
    threads = own["threads"]
    found = f"torch {own['torch']}, {own['cpu_capability']}, {_threads(threads)}"
    return f"{found}, fingerprint {own['fingerprint']}" if "fingerprint" in own else found


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """What bits depend on and is not as it was, in words: "torch 2.8.0 then, 2.13.0 now". A fingerprint is told of only
    where nothing else accounts for it."""
    if "torch" not in then:
        return ("torch and processor then unknown",)
    other = [key for key in ARITHMETIC if key in then and then[key] != now.get(key)]
    if other and other != ["fingerprint"]:
        other = [key for key in other if key != "fingerprint"]
    elif "fingerprint" not in then:
        return ("kernels of its libraries then unknown",)
    told = {"cpu_capability": "kernels", "fingerprint": "fingerprint of its kernels"}
    return tuple(
        f"{told.get(key, key)} {plain(then[key], 60)} then, {plain(now.get(key, 'unknown'), 60)} now" for key in other
    )


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _elsewhere(environment: Mapping[str, Any]) -> Iterator[str]:
    """What no process of this machine has, whatever it sets."""
    torch, here = environment["torch"], _installed()
    if here is not None and str(torch).partition("+")[0] != here.partition("+")[0]:
        yield f"torch {plain(torch, 60)} ({here} here)"
    processor = environment.get("cpu", platform.machine())
    if processor != platform.machine():
        yield f"{plain(processor, 60)} ({platform.machine()} here)"


def _installed() -> str | None:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def _lacking(capability: str) -> str:
    """Why this process cannot have torch's kernels of `capability`; "" where it can, or where only torch knows."""
    torch = sys.modules.get("torch")
    if torch is not None:
        own = torch.backends.cpu.get_cpu_capability()
        return "" if own == capability else f"torch was imported before, with {own}"
    flags = _FLAGS.get(capability)
    if flags is None:
        return "" if platform.machine() not in ("x86_64", "AMD64") else "torch knows no such kernels here"
    return "" if flags <= _processor() else "this processor has no such kernels"


def _beyond(capability: str) -> bool:
    """Whether this processor has more than `capability`."""
    names = list(_FLAGS)
    return any(_FLAGS[name] <= _processor() for name in names[names.index(capability) + 1 :])


@cache
def _processor() -> frozenset[str]:
    """The instruction sets that the kernel of the system reports; none where it reports them in no file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    named = (line.partition(":") for line in lines)
    return next((frozenset(value.split()) for name, _, value in named if name.strip() == "flags"), frozenset())


def _fingerprint(torch: Any) -> str | None:
    """Hash of a few fixed products, sums and exponentials on the processor; None where torch cannot compute them.

    Lengths that fill no vector register make the kernels of different instruction sets, and those that a BLAS swaps by
    itself, sum in different orders. All of it is too small to be split among threads.
    """
    state = hashlib.sha256()
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
                for result in _results(torch, dtype):
                    state.update(result.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    except RuntimeError:
        return None
    return state.hexdigest()[:_DIGITS]


def _results(torch: Any, dtype: Any) -> Iterator[Any]:
    def fixed(*shape: int, factor: int = 7919) -> Any:
        """Of `shape`, in [-0.5, 0.5): the same values in every arithmetic."""
        places = torch.arange(torch.Size(shape).numel(), dtype=torch.int64, device="cpu")
        return ((places * factor % 2003).to(torch.float64) / 2003 - 0.5).to(dtype).view(shape)

    yield fixed(7, 513) @ fixed(513, 5, factor=3571)
    yield fixed(1, 32) @ fixed(32, 32, factor=3571).t()
    yield fixed(100, 64) @ fixed(64, 50, factor=3571)
    yield fixed(4, 17, 33) @ fixed(4, 33, 9, factor=3571)
    yield fixed(130, 77) @ fixed(77, factor=3571)
    rows = fixed(37, 251)
    for name in ("exp", "sigmoid", "tanh"):
        yield getattr(rows, name)()
    yield rows.abs().log1p()
    yield rows.sum(0)
    yield rows.sum(1)
    yield rows.norm()
    yield rows.softmax(-1)
    yield torch.nn.functional.layer_norm(rows, (251,))
    yield torch.nn.functional.gelu(rows)
