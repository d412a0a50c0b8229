"""What the bits of a training depend on besides its program: the kernels that compute it, and their threads.

A library chooses its kernels by the processor, and by variables of the environment, when it first computes. A process
that is to compute as a run did has to settle that before it imports torch: `arithmetic_of` says how, `adopt` does it.
Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from postmortem.text import plain

Mode: TypeAlias = Literal["recorded", "native"]
"""Whose arithmetic a replay takes: that which the run recorded, or whatever this process has."""

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

_VALUE = re.compile(r"[\w.,:-]{1,64}", re.ASCII)
_MOST_THREADS = 1024
_X86 = ("x86_64", "AMD64")
_COMPUTATIONS = "1"  # another number where `_results` changes: fingerprints of other computations say nothing


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
        """Set this process's environment so. Nothing is done once torch is imported: it would be too late."""
        if "torch" in sys.modules:
            return
        for name, value in self.variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    def environ(self, base: Mapping[str, str]) -> dict[str, str]:
        """The environment `base` of a process that is to compute so."""
        kept = {name: value for name, value in base.items() if name not in self.variables}
        return kept | {name: value for name, value in self.variables.items() if value is not None}

    @property
    def key(self) -> str:
        """Tells it from others: where it differs, so may the bits of a process that this one starts."""
        environment = self.environ(os.environ)
        told: list[object] = [self.text, *(environment.get(name) for name in KERNELS)]
        if self.threads is None or self.missing:
            told += [environment.get("OMP_NUM_THREADS"), [name for name in _FLAGS if _has(name)]]
        return str(told)


OWN = Arithmetic("this machine's own, as asked for")


def arithmetic_of(environment: Mapping[str, Any], mode: Mode = "recorded", *, here: bool = False) -> Arithmetic:
    """The arithmetic for replays of a run whose run.json tells of `environment`: in processes that are still to be
    started, or, `here`, in this one, which may have imported torch already."""
    if mode == "native":
        return OWN
    wanted, threads = environment.get("cpu_capability"), environment.get("threads")
    if "torch" not in environment or not isinstance(wanted, str):
        return Arithmetic("this machine's own: the run does not say what it computed with")
    threads = threads if type(threads) is int and 0 < threads <= _MOST_THREADS else None
    chosen = _chosen() if here else None
    had = _has(wanted) if chosen is None else chosen == wanted
    missing, took = list(_elsewhere(environment)), [] if threads is None else [_threads(threads)]
    variables: dict[str, str | None] = dict.fromkeys(KERNELS)
    if had is False:  # kernels that a processor has not end a process: nothing of them is taken over
        why = "this processor has no such kernels" if chosen is None else f"torch was imported before, with {chosen}"
        missing.append(f"{plain(wanted, 60)} ({why})")
    else:
        took.insert(0, plain(wanted, 60) if had else f"{plain(wanted, 60)} if torch has it here")
        kernels = _kernels(environment)
        variables |= kernels | {_ATEN: wanted.lower() if had and wanted in _FLAGS else None}
        if _ATEN not in kernels and wanted in _LESSER and _beyond(wanted):
            variables |= _LESSER[wanted]
    if not missing:
        return Arithmetic(f"as recorded: {', '.join(took)}", variables, threads)
    so_far = f" where this machine can ({', '.join(took)})" if took else ""
    text = f"as recorded{so_far}, but not {', '.join(missing)}: bits cannot be expected"
    return Arithmetic(text, variables, threads, tuple(missing))


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
    """What this process computes with: "torch 2.13.0+cpu, AVX2, 1 thread, fingerprint 1:0123456789abcdef"."""
    own = measured()
    if not own:
        return ""
    threads = own["threads"]
    found = f"torch {own['torch']}, {own['cpu_capability']}, {_threads(threads)}"
    return f"{found}, fingerprint {own['fingerprint']}" if "fingerprint" in own else found


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """What bits depend on and is not as it was, in words: "torch 2.8.0 then, 2.13.0 now". A fingerprint is told of only
    where no other kernels account for it."""
    if "torch" not in then:
        return ("torch and processor then unknown",)
    other = [key for key in ARITHMETIC if key in then and then[key] != now.get(key)]
    explained = not {"torch", "cpu", "cpu_capability"}.isdisjoint(other)
    told = [_then_and_now(key, then[key], now.get(key, "unknown")) for key in other if key != "fingerprint"]
    if not explained and not _same_kind(then.get("fingerprint"), now.get("fingerprint")):
        told.append("kernels of its libraries then unknown")
    elif not explained and "fingerprint" in other:
        told.append(_then_and_now("fingerprint", then["fingerprint"], now["fingerprint"]))
    return tuple(told)


def _then_and_now(key: str, then: object, now: object) -> str:
    name = {"cpu_capability": "kernels", "fingerprint": "fingerprint of its kernels"}.get(key, key)
    return f"{name} {plain(then, 60)} then, {plain(now, 60)} now"


def _same_kind(then: object, now: object) -> bool:
    """Whether two fingerprints are there and of the same computations."""
    return isinstance(then, str) and isinstance(now, str) and then.partition(":")[0] == now.partition(":")[0]


def _kernels(environment: Mapping[str, Any]) -> dict[str, str]:
    """The variables of KERNELS that a run tells of, as far as they can be one's values: runs come from strangers."""
    told = environment.get("kernels")
    held = cast("dict[str, Any]", told) if isinstance(told, dict) else {}
    named = {name: held[name] for name in KERNELS if name in held}
    return {name: value for name, value in named.items() if isinstance(value, str) and _VALUE.fullmatch(value)}


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _elsewhere(environment: Mapping[str, Any]) -> Iterator[str]:
    """What no process of this machine has, whatever it sets."""
    torch, here = str(environment["torch"]), _installed()
    if here is not None and not _same_torch(torch, here):
        yield f"torch {plain(torch, 60)} ({here} here)"
    processor = environment.get("cpu", platform.machine())
    if processor != platform.machine():
        yield f"{plain(processor, 60)} ({platform.machine()} here)"


def _same_torch(then: str, here: str) -> bool:
    """Whether two versions may be of one build: some indexes leave its name out, as in 2.13.0 for 2.13.0+cu130."""
    (version, _, build), (own_version, _, own_build) = then.partition("+"), here.partition("+")
    return version == own_version and (build == own_build or not build or not own_build)


def _installed() -> str | None:
    from importlib import metadata  # a seventh of the time of --help, which needs none of it

    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def _chosen() -> str | None:
    """The kernels that torch has chosen in this process; None before it is imported."""
    torch = sys.modules.get("torch")
    return None if torch is None else torch.backends.cpu.get_cpu_capability()


def _has(capability: str) -> bool | None:
    """Whether this processor has torch's kernels of `capability`; None where only torch knows."""
    flags, own = _FLAGS.get(capability), _processor()
    if flags is None:
        return False if platform.machine() in _X86 else None
    return True if not flags else None if own is None else flags <= own


def _beyond(capability: str) -> bool:
    """Whether this processor has more than `capability`."""
    names = list(_FLAGS)
    return any(_has(name) for name in names[names.index(capability) + 1 :])


@cache
def _processor() -> frozenset[str] | None:
    """The instruction sets that the system's kernel reports of an x86 processor; none of another, None where it reports
    them in no file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset() if platform.machine() not in _X86 else None
    named = (line.partition(":") for line in lines)
    return next((frozenset(value.split()) for name, _, value in named if name.strip() == "flags"), frozenset())


def _fingerprint(torch: Any) -> str | None:
    """Hash of a few fixed products, sums and exponentials on the processor, behind the number of their set; None where
    torch cannot compute them.

    Lengths that fill no vector register make the kernels of different instruction sets, and those that a BLAS swaps by
    itself, sum in different orders. It belongs to a number of threads: MKL on an Intel processor splits a product of a
    matrix and a vector over two, and over eight it does not.
    """
    state = hashlib.sha256()
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
                for result in _results(torch, dtype):
                    state.update(result.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    except RuntimeError:
        return None
    return f"{_COMPUTATIONS}:{state.hexdigest()[:16]}"


def _results(torch: Any, dtype: Any) -> Iterator[Any]:
    def fixed(*shape: int, factor: int = 7919) -> Any:
        """Of `shape`, in [-0.5, 0.5): the same values in every arithmetic."""
        places = torch.arange(torch.Size(shape).numel(), dtype=torch.int64, device="cpu")
        return ((places * factor % 2003).to(torch.float64) / 2003 - 0.5).to(dtype).view(shape)

    yield fixed(7, 513) @ fixed(513, 5, factor=3571)
    yield fixed(1, 32) @ fixed(32, 32, factor=3571).t()
    yield fixed(64, 300) @ fixed(300, 8, factor=3571)
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
