"""The cost of a checkpoint policy, against the table that it follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from postmortem.checkpoint import Policy
from postmortem.checkpoint.plan import DTYPES, OPTIMIZERS, make_plan, readable_size
from postmortem.errors import UsageError

GB = 10**9


def test_seven_billion_parameters_of_adam_in_float32() -> None:
    plan = make_plan(7e9)
    assert plan.bytes_per_parameter == 12
    assert [(role.role, role.contents, role.bytes_each // GB, role.keep) for role in plan.roles] == [
        ("rollback", "full", 84, 5),
        ("recovery", "full", 84, 3),
        ("best-k", "parameters", 28, 3),
    ]
    assert {key: size // GB for key, size in plan.totals.items()} == {
        "all_full": 924,
        "full_rollback": 756,
        "parameter_only_rollback": 476,
    }
    assert plan.total == plan.totals["full_rollback"] and plan.peak == plan.total + 84 * GB
    assert "parameter-only rollback" in plan.advice[0] and "resets the optimizer" in plan.advice[0]


def test_parameter_only_rollback_is_warned_about() -> None:
    plan = make_plan(7e9, policy=Policy(rollback_contents="parameters"))
    assert plan.total == 476 * GB
    assert plan.lost_in_crash == 1000 and plan.lost_in_spike == 100
    assert "resets the optimizer" in plan.advice[0]
    assert make_plan(1e6, optimizer="sgd", policy=Policy(rollback_contents="parameters")).advice == ()


@pytest.mark.parametrize(
    ("dtype", "optimizer", "expected"),
    [
        ("fp32", "adamw", 12),
        ("fp32", "sgd", 4),
        ("fp32", "sgd-momentum", 8),
        ("fp32", "lion", 8),
        ("fp32", "adafactor", 4),
        ("fp32", "adamw-8bit", 6.03125),
        ("bf16", "adamw", 6),
        ("fp16", "sgd", 2),
        ("bf16-master", "adamw", 14),
        ("bf16-master", "adamw-8bit", 8.03125),
    ],
)
def test_bytes_a_parameter(dtype: str, optimizer: str, expected: float) -> None:
    assert make_plan(1e6, dtype, optimizer).bytes_per_parameter == expected


@pytest.mark.parametrize(("optimizer", "moments"), [("adamw", 2), ("sgd-momentum", 1), ("sgd", 0)])
def test_bytes_a_parameter_are_those_of_torch(optimizer: str, moments: int) -> None:
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.zeros(1000))
    makers = {
        "adamw": lambda: torch.optim.AdamW([weight]),
        "sgd-momentum": lambda: torch.optim.SGD([weight], lr=0.1, momentum=0.9),
        "sgd": lambda: torch.optim.SGD([weight], lr=0.1),
    }
    made = makers[optimizer]()
    weight.sum().backward()
    made.step()
    held = sum(v.nbytes for v in made.state[weight].values() if torch.is_tensor(v) and v.numel() == 1000)
    assert 4000 + held == make_plan(1000, "fp32", optimizer).roles[0].bytes_each
    assert OPTIMIZERS[optimizer].moments == moments


def test_ranks_and_time() -> None:
    plan = make_plan(7e9, ranks=8, write_gb_per_s=2)
    assert plan.rank_bytes == 84 * GB // 8
    assert [role.seconds for role in plan.roles] == [42, 42, 14]


def test_worst_cases_follow_the_policy() -> None:
    plan = make_plan(1e6)
    assert (plan.lost_in_crash, plan.lost_in_spike, plan.reach, plan.advice) == (100, 100, 400, ())
    plan = make_plan(1e6, policy=Policy(rollback_every=0))
    assert (plan.lost_in_crash, plan.lost_in_spike, plan.reach) == (1000, 1000, 0)
    plan = make_plan(1e6, policy=Policy(rollback_contents="parameters", recovery_every=0))
    assert plan.lost_in_crash is None and "no role saves the full state" in plan.advice[0]
    plan = make_plan(1e6, policy=Policy(rollback_every=0, recovery_every=0, best_k=0))
    assert (plan.roles, plan.total, plan.lost_in_spike) == ((), 0, None)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"parameters": 0}, "--params"),
        ({"parameters": float("nan")}, "--params"),
        ({"parameters": 1e9, "ranks": 0}, "--ranks"),
        ({"parameters": 1e9, "write_gb_per_s": -1}, "--write-gbps"),
        ({"parameters": 1e9, "dtype": "int4"}, "choose from fp32"),
        ({"parameters": 1e9, "optimizer": "sofia"}, "choose from sgd"),
    ],
)
def test_what_cannot_be_planned(words: dict[str, float], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        make_plan(**words)


def test_every_choice_says_what_it_means() -> None:
    assert all(choice.meaning for choice in (*DTYPES.values(), *OPTIMIZERS.values()))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1 kB"), (84e9, "84 GB"), (999.7e6, "1 GB"), (1.234e6, "1.23 MB")),
        *((10.5e9, "10.5 GB"), (756e9, "756 GB"), (1.2e12, "1.2 TB"), (100e9, "100 GB"), (99.97e9, "100 GB")),
    ],
)
def test_sizes_as_people_write_them(size: float, expected: str) -> None:
    assert readable_size(size) == expected


DOCS = Path(__file__).parents[2] / "docs" / "checkpoints.md"


def test_the_guide_tells_the_same_figures() -> None:
    rows = {line.split("|")[1].strip(): line for line in DOCS.read_text("utf-8").splitlines() if line.startswith("| ")}
    plan, light = make_plan(7e9), make_plan(7e9, policy=Policy(rollback_contents="parameters"))
    for row, made in (("by the roles' contents", plan), ("parameter-only rollback", light)):
        sizes = [f" {readable_size(role.bytes)} " for role in made.roles] + [f" **{readable_size(made.total)}** "]
        assert rows[row].split("|")[2:-1] == sizes
    assert readable_size(plan.totals["all_full"]) in rows["all 11 full"]
    named = {name for row in rows for name in row.replace("`", "").split(", ")}
    assert {*DTYPES, *OPTIMIZERS} <= named


def test_the_guide_names_the_policy_that_is_the_default(tmp_path: Path) -> None:
    for kind in ("yaml", "toml"):
        file = tmp_path / f"policy.{kind}"
        file.write_text(DOCS.read_text("utf-8").split(f"```{kind}\n")[1].split("```")[0])
        assert Policy.from_file(file) == Policy()
