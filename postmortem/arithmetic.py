"""The kernels and threads that bits depend on: recorded, compared, and adopted by a process.

A library chooses its kernels when it first computes, by the processor and by environment variables. So a process that
shall compute as a run did must set them before it imports torch: `arithmetic_of` says how, `adopt` does it. Nothing
here imports torch.
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
"""How a replay computes: as the run recorded, or as this process computes anyway."""

ARITHMETIC = ("torch", "cpu", "cpu_capability", "threads", "cuda", "rocm", "fingerprint")
"""Keys of run.json's `environment` on which bits depend. Other influences show in the fingerprint."""

_ATEN, _ONEDNN, _MKL = "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"
KERNELS = (
    _ATEN, _ONEDNN, "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", _MKL, "MKL_CBWR",
    "OPENBLAS_CORETYPE",
)  # fmt: skip
"""Environment variables by which libraries choose kernels."""

_FLAGS = {
    "DEFAULT": frozenset[str](),
    "AVX2": frozenset(("avx2", "fma")),
    "AVX512": frozenset(("avx512f", "avx512bw", "avx512dq", "avx512vl", "fma")),
}
"""Features of an x86 processor that torch's kernels of a capability need. torch does not check its own variable."""

_LESSER = {"AVX2": {_ONEDNN: "AVX2", _MKL: "AVX2"}}
"""Variables that limit the other libraries to the kernels of a processor with only this capability."""

_VALUE = re.compile(r"[\w.,:-]{1,64}", re.ASCII)
_MOST_THREADS = 1024
_X86 = ("x86_64", "AMD64")
_COMPUTATIONS = "1"  # change it with `_fixed_results`: fingerprints of different computations cannot be compared


@dataclass(frozen=True)
class Arithmetic:
    """The settings with which a process computes as a run did, as far as this machine can.

    variables: environment variables to set before torch is imported; None means to unset. threads: of one operation,
    None keeps those of the process. missing: what the run had and this machine lacks. text: a summary in one line.
    """

    text: str
    variables: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])
    threads: int | None = None
    missing: tuple[str, ...] = ()

    def adopt(self) -> None:
        """Set the environment of this process. Has no effect after torch was imported: it would be too late."""
        if "torch" in sys.modules:
            return
        for name, value in self.variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    def environ(self, base: Mapping[str, str]) -> dict[str, str]:
        """The environment `base` with these settings, for a new process."""
        environment = {name: value for name, value in base.items() if name not in self.variables}
        return environment | {name: value for name, value in self.variables.items() if value is not None}

    @property
    def key(self) -> str:
        """Identifies the settings: processes that are started with different keys may compute different bits."""
        environment = self.environ(os.environ)
        parts: list[object] = [self.text, *(environment.get(name) for name in KERNELS)]
        if self.threads is None or self.missing:
            parts += [environment.get("OMP_NUM_THREADS"), [name for name in _FLAGS if _processor_supports(name)]]
        return str(parts)


NATIVE = Arithmetic("this machine's own, as asked for")


def arithmetic_of(environment: Mapping[str, Any], mode: Mode = "recorded", *, here: bool = False) -> Arithmetic:
    """The arithmetic for replays of a run with this `environment` in run.json: for processes that are not started yet,
    or, with `here`, for this process, which may have imported torch already."""
    if mode == "native":
        return NATIVE
    capability, threads = environment.get("cpu_capability"), environment.get("threads")
    if "torch" not in environment or not isinstance(capability, str):
        return Arithmetic("this machine's own: the run does not say what it computed with")
    threads = threads if type(threads) is int and 0 < threads <= _MOST_THREADS else None
    in_use = _kernels_in_use() if here else None
    available = _processor_supports(capability) if in_use is None else in_use == capability
    missing, adopted = list(_unavailable_here(environment)), [] if threads is None else [_count_threads(threads)]
    variables: dict[str, str | None] = dict.fromkeys(KERNELS)
    if available is False:  # kernels that the processor lacks would crash the process: they are not adopted
        reason = "this processor has no such kernels" if in_use is None else f"torch was imported before, with {in_use}"
        missing.append(f"{plain(capability, 60)} ({reason})")
    else:
        adopted.insert(0, plain(capability, 60) if available else f"{plain(capability, 60)} if torch has it here")
        kernels = _recorded_kernels(environment)
        variables |= kernels | {_ATEN: capability.lower() if available and capability in _FLAGS else None}
        if _ATEN not in kernels and capability in _LESSER and _processor_exceeds(capability):
            variables |= _LESSER[capability]
    if not missing:
        return Arithmetic(f"as recorded: {', '.join(adopted)}", variables, threads)
    as_far = f" where this machine can ({', '.join(adopted)})" if adopted else ""
    text = f"as recorded{as_far}, but not {', '.join(missing)}: bits cannot be expected"
    return Arithmetic(text, variables, threads, tuple(missing))


def measure_arithmetic() -> dict[str, Any]:
    """How this process computes, for `environment` in run.json; empty before torch is imported."""
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


def describe_arithmetic() -> str:
    """How this process computes, in words: "torch 2.13.0+cpu, AVX2, 1 thread, fingerprint 1:0123456789abcdef"."""
    environment = measure_arithmetic()
    if not environment:
        return ""
    threads = environment["threads"]
    text = f"torch {environment['torch']}, {environment['cpu_capability']}, {_count_threads(threads)}"
    return f"{text}, fingerprint {environment['fingerprint']}" if "fingerprint" in environment else text


def describe_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """What bits depend on and what differs, in words: "torch 2.8.0 then, 2.13.0 now". A different fingerprint is listed
    only if no other difference explains it."""
    if "torch" not in then:
        return ("torch and processor then unknown",)
    differing = [key for key in ARITHMETIC if key in then and then[key] != now.get(key)]
    explained = not {"torch", "cpu", "cpu_capability"}.isdisjoint(differing)
    texts = [_difference_text(key, then[key], now.get(key, "unknown")) for key in differing if key != "fingerprint"]
    if not explained and not _comparable_fingerprints(then.get("fingerprint"), now.get("fingerprint")):
        texts.append("kernels of its libraries then unknown")
    elif not explained and "fingerprint" in differing:
        texts.append(_difference_text("fingerprint", then["fingerprint"], now["fingerprint"]))
    return tuple(texts)


def _difference_text(key: str, then: object, now: object) -> str:
    name = {"cpu_capability": "kernels", "fingerprint": "fingerprint of its kernels"}.get(key, key)
    return f"{name} {plain(then, 60)} then, {plain(now, 60)} now"


def _comparable_fingerprints(then: object, now: object) -> bool:
    """Whether both fingerprints exist and come from the same computations."""
    return isinstance(then, str) and isinstance(now, str) and then.partition(":")[0] == now.partition(":")[0]


def _recorded_kernels(environment: Mapping[str, Any]) -> dict[str, str]:
    """The variables of KERNELS that a run recorded, if their values are plausible: runs come from strangers."""
    raw = environment.get("kernels")
    kernels = cast("dict[str, Any]", raw) if isinstance(raw, dict) else {}
    recorded = {name: kernels[name] for name in KERNELS if name in kernels}
    return {name: value for name, value in recorded.items() if isinstance(value, str) and _VALUE.fullmatch(value)}


def _count_threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _unavailable_here(environment: Mapping[str, Any]) -> Iterator[str]:
    """What the run had and no process on this machine can have."""
    torch, installed = str(environment["torch"]), _installed()
    if installed is not None and not _same_torch(torch, installed):
        yield f"torch {plain(torch, 60)} ({installed} here)"
    processor = environment.get("cpu", platform.machine())
    if processor != platform.machine():
        yield f"{plain(processor, 60)} ({platform.machine()} here)"


def _same_torch(then: str, installed: str) -> bool:
    """Whether two versions may be the same build: some package indexes omit its name, as in 2.13.0 for 2.13.0+cu130."""
    (version, _, build), (installed_version, _, installed_build) = then.partition("+"), installed.partition("+")
    return version == installed_version and (build == installed_build or not build or not installed_build)


def _installed() -> str | None:
    from importlib import metadata  # slow to import, and --help does not need it

    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def _kernels_in_use() -> str | None:
    """The kernels that torch uses in this process; None before it is imported."""
    torch = sys.modules.get("torch")
    return None if torch is None else torch.backends.cpu.get_cpu_capability()


def _processor_supports(capability: str) -> bool | None:
    """Whether this processor supports torch's kernels of `capability`; None if only torch knows."""
    needed, available = _FLAGS.get(capability), _processor_flags()
    if needed is None:
        return False if platform.machine() in _X86 else None
    return True if not needed else None if available is None else needed <= available


def _processor_exceeds(capability: str) -> bool:
    """Whether this processor supports more than `capability`."""
    names = list(_FLAGS)
    return any(_processor_supports(name) for name in names[names.index(capability) + 1 :])


@cache
def _processor_flags() -> frozenset[str] | None:
    """The instruction sets of an x86 processor, as the operating system reports them; empty for other processors, None
    if the system has no such file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset() if platform.machine() not in _X86 else None
    fields = (line.partition(":") for line in lines)
    return next((frozenset(value.split()) for name, _, value in fields if name.strip() == "flags"), frozenset())


def _fingerprint(torch: Any) -> str | None:
    """Hash of a few fixed products, sums and exponentials on the processor, after the number of their set; None if
    torch cannot compute them.

    Lengths that do not fill a vector register make kernels of different instruction sets sum in different orders, and
    also those that a BLAS exchanges by itself. A fingerprint belongs to a number of threads: MKL on an Intel processor
    splits a product of a matrix and a vector over two threads, but not over eight.
    """
    state = hashlib.sha256()
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
                for result in _fixed_results(torch, dtype):
                    state.update(result.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    except RuntimeError:
        return None
    return f"{_COMPUTATIONS}:{state.hexdigest()[:16]}"


def _fixed_results(torch: Any, dtype: Any) -> Iterator[Any]:
    def fixed(*shape: int, factor: int = 7919) -> Any:
        """A tensor of `shape` in [-0.5, 0.5), with the same values in every arithmetic."""
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
