"""Calculates the disk space and time that a checkpoint policy needs, before the run begins.

A full checkpoint has the weights, the float32 master copy where training keeps one, and the optimizer's moments:

    bytes = parameters × (weight + master + moments × moment's width)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, TypeVar

from postmortem.checkpoint.policy import Policy
from postmortem.errors import UsageError
from postmortem.text import plain

_T = TypeVar("_T")
LARGE = 10e9
"""Bytes of one checkpoint above which the advice mentions parameter-only rollback checkpoints."""


@dataclass(frozen=True)
class DTypeCost:
    """Bytes per parameter of the weights, of a float32 master copy (0: none), and of one element of a moment."""

    weight: int
    master: int
    moment: int
    meaning: str


@dataclass(frozen=True)
class OptimizerCost:
    """Moments per parameter; `width` is their size in bytes if it does not depend on the dtype."""

    moments: int
    meaning: str
    width: float | None = None


DTYPES: Mapping[str, DTypeCost] = MappingProxyType({
    "fp32": DTypeCost(4, 0, 4, "float32 throughout; autocast and FSDP mixed precision save this, too"),
    "bf16": DTypeCost(2, 0, 2, "bfloat16 weights and moments, no master copy"),
    "fp16": DTypeCost(2, 0, 2, "float16 weights and moments, no master copy"),
    "bf16-master": DTypeCost(2, 4, 4, "bfloat16 weights with a float32 master copy and float32 moments"),
})  # fmt: skip
OPTIMIZERS: Mapping[str, OptimizerCost] = MappingProxyType({
    "sgd": OptimizerCost(0, "no moments"),
    "sgd-momentum": OptimizerCost(1, "one momentum"),
    "lion": OptimizerCost(1, "one momentum"),
    "adafactor": OptimizerCost(0, "row and column sums: under 0.1 % of the weights, counted as nothing"),
    "adamw": OptimizerCost(2, "two moments"),
    "adamw-8bit": OptimizerCost(2, "two moments of one byte, and a float32 scale for each 256 of them", 1 + 4 / 256),
})  # fmt: skip


@dataclass(frozen=True)
class RolePlan:
    """One role: contents and size of each of its checkpoints. `seconds` per write is None without a write speed."""

    role: str
    contents: Literal["full", "parameters"]
    every: int | None
    keep: int
    bytes_each: int
    seconds: float | None

    @property
    def bytes(self) -> int:
        """All checkpoints of the role together."""
        return self.keep * self.bytes_each


@dataclass(frozen=True)
class StoragePlan:
    """A policy's cost. Sizes in bytes, all ranks together; `rank_bytes` is one rank's share of a full checkpoint.

    totals: bytes on disk with every checkpoint full, by the policy's roles with full rollback, and with parameter-only
    rollback. peak: the plan's own total, and the checkpoint that is written before an old one is removed.
    lost_in_crash: most steps that are repeated after a crash, None without recovery. lost_in_spike: the same before a
    spike's onset. reach: number of steps within which a spike has to be noticed for that.
    """

    parameters: float
    dtype: str
    optimizer: str
    ranks: int
    bytes_per_parameter: float
    roles: tuple[RolePlan, ...]
    totals: Mapping[str, int]
    peak: int
    rank_bytes: int
    lost_in_crash: int | None
    lost_in_spike: int | None
    reach: int
    advice: tuple[str, ...]

    @property
    def total(self) -> int:
        """Bytes on disk with this policy, at most: rollback and recovery of one step share their files."""
        return sum(role.bytes for role in self.roles)


def make_plan(
    parameters: float,
    dtype: str = "fp32",
    optimizer: str = "adamw",
    policy: Policy | None = None,
    *,
    ranks: int = 1,
    write_gb_per_s: float | None = None,
) -> StoragePlan:
    """The cost of `policy` for a model with this number of parameters. `write_gb_per_s` is in 1e9 bytes per second, all
    ranks together.

    Raises:
        UsageError: an unknown dtype or optimizer, or a number that is not above 0.
    """
    policy = policy or Policy()
    dtype_cost, optimizer_cost = _choice("dtype", dtype, DTYPES), _choice("optimizer", optimizer, OPTIMIZERS)
    for name, value in (("params", parameters), ("ranks", ranks), ("write-gbps", write_gb_per_s)):
        if value is not None and not 0 < value < 1e18:
            raise UsageError(f"--{name}: expected a number above 0, not {plain(value, 40)}")
    width = dtype_cost.moment if optimizer_cost.width is None else optimizer_cost.width
    per_parameter = dtype_cost.weight + dtype_cost.master + optimizer_cost.moments * width
    sizes = {"full": round(parameters * per_parameter), "parameters": round(parameters * dtype_cost.weight)}
    roles = _roles(policy, sizes, write_gb_per_s)
    with_full, with_parameters = (
        sum(role.bytes for role in _roles(replace(policy, rollback_contents=contents), sizes, None))
        for contents in ("full", "parameters")
    )
    crash = [role.every for role in roles if role.contents == "full" and role.every]
    spike = [role.every for role in roles if role.every]
    rollback = next((role for role in roles if role.role == "rollback"), None)
    return StoragePlan(
        parameters=parameters,
        dtype=dtype,
        optimizer=optimizer,
        ranks=ranks,
        bytes_per_parameter=per_parameter,
        roles=roles,
        totals={
            "all_full": sum(role.keep for role in roles) * sizes["full"],
            "full_rollback": with_full,
            "parameter_only_rollback": with_parameters,
        },
        peak=sum(role.bytes for role in roles) + max((role.bytes_each for role in roles), default=0),
        rank_bytes=round(sizes["full"] / ranks),
        lost_in_crash=min(crash, default=None),
        lost_in_spike=min(spike, default=None),
        reach=0 if rollback is None or not rollback.every else rollback.every * (rollback.keep - 1),
        advice=tuple(_advice(roles, sizes, policy, with_full - with_parameters)),
    )


def _choice(option: str, name: str, choices: Mapping[str, _T]) -> _T:
    if name not in choices:
        raise UsageError(f"--{option}: {plain(name, 40)!r} is unknown; choose from {', '.join(choices)}")
    return choices[name]


def _roles(policy: Policy, sizes: Mapping[str, int], speed: float | None) -> tuple[RolePlan, ...]:
    cadences = (
        ("rollback", policy.rollback_every, policy.rollback_keep),
        ("recovery", policy.recovery_every, policy.recovery_keep),
        ("best-k", None, policy.best_k),
    )
    roles: list[RolePlan] = []
    for role, every, keep in cadences:
        if every == 0 or keep == 0:
            continue
        contents = policy.contents(role)
        seconds = None if speed is None else sizes[contents] / (speed * 1e9)
        roles.append(RolePlan(role, contents, every, keep, sizes[contents], seconds))
    return tuple(roles)


def _advice(roles: tuple[RolePlan, ...], sizes: Mapping[str, int], policy: Policy, saving: int) -> list[str]:
    advice: list[str] = []
    if not any(role.contents == "full" for role in roles):
        advice.append("no role saves the full state, so no run can be resumed. Switch recovery on.")
    reset = "restoring one resets the optimizer"
    if policy.rollback_every and policy.rollback_contents == "parameters" and sizes["full"] > sizes["parameters"]:
        advice.append(
            f"rollback checkpoints have only parameters: {reset}, which can spike the loss by itself. Warm the "
            "learning rate up again after it."
        )
    elif policy.rollback_every and sizes["full"] > LARGE and saving > 0:
        advice.append(
            f"a full checkpoint takes {readable_size(sizes['full'])}, more than {readable_size(LARGE)}: parameter-only "
            f"rollback (--rollback-contents parameters) would save {readable_size(saving)}, but {reset}. To save less "
            f"often (--rollback-every) or to keep fewer (--rollback-keep) costs steps instead."
        )
    return advice


def readable_size(size: float) -> str:
    """A size in decimal units with three digits: `84 GB`, `1.23 MB`."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale * 0.9995:
            value = size / scale
            digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
            return f"{value:.{digits}f}".rstrip("0").rstrip(".") + f" {unit}" if digits else f"{value:.0f} {unit}"
    return f"{size:.0f} B"
