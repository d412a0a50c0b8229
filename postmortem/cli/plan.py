"""`postmortem plan`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from postmortem.cli._listing import room, table, wrapped

if TYPE_CHECKING:
    from postmortem.checkpoint.plan import StoragePlan


def plan(
    params: Annotated[float, typer.Option("--params", metavar="N", help="Parameters of the model, such as 7e9.")],
    dtype: Annotated[str, typer.Option("--dtype", help="fp32, bf16, fp16, or bf16-master.")] = "fp32",
    optimizer: Annotated[
        str, typer.Option("--optimizer", help="adamw, adamw-8bit, lion, sgd, sgd-momentum, or adafactor.")
    ] = "adamw",
    ranks: Annotated[int, typer.Option("--ranks", metavar="N", help="Ranks that share the writing.")] = 1,
    write_gbps: Annotated[
        float | None, typer.Option("--write-gbps", metavar="X", help="Gigabytes a second, all ranks together.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="The policy as YAML, under the key checkpoint.")
    ] = None,
    rollback_every: Annotated[int | None, typer.Option("--rollback-every", metavar="STEPS")] = None,
    rollback_keep: Annotated[int | None, typer.Option("--rollback-keep", metavar="N")] = None,
    rollback_contents: Annotated[
        str | None, typer.Option("--rollback-contents", metavar="WHAT", help="full or parameters.")
    ] = None,
    recovery_every: Annotated[int | None, typer.Option("--recovery-every", metavar="STEPS")] = None,
    recovery_keep: Annotated[int | None, typer.Option("--recovery-keep", metavar="N")] = None,
    best_k: Annotated[int | None, typer.Option("--best-k", metavar="N")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """What a checkpoint policy takes: room, time to write, and steps lost at worst.

    \b
    Examples:
      postmortem plan --params 7e9 --dtype fp32 --optimizer adamw
      postmortem plan --params 7e9 --ranks 8 --write-gbps 2.5 --rollback-contents parameters
    """
    from postmortem.checkpoint.plan import make_plan
    from postmortem.checkpoint.policy import Policy

    given = {
        "rollback_every": rollback_every,
        "rollback_keep": rollback_keep,
        "rollback_contents": rollback_contents,
        "recovery_every": recovery_every,
        "recovery_keep": recovery_keep,
        "best_k": best_k,
    }
    policy = Policy() if config is None else Policy.from_yaml(config)
    policy = replace(policy, **{key: value for key, value in given.items() if value is not None})
    made = make_plan(params, dtype, optimizer, policy, ranks=ranks, write_gb_per_s=write_gbps)
    if as_json:
        roles = [asdict(role) | {"bytes": role.bytes} for role in made.roles]
        typer.echo(json.dumps(asdict(made) | {"roles": roles, "total": made.total}, indent=1))
    else:
        for line in _lines(made, room(sys.stdout)):
            typer.echo(line)


def _lines(made: StoragePlan, space: int | None) -> list[str]:
    from postmortem.checkpoint.plan import DTYPES, OPTIMIZERS, spelled

    kept, moments = DTYPES[made.dtype], OPTIMIZERS[made.optimizer]
    master = f" + {kept.master} master" if kept.master else ""
    width = kept.moment if moments.width is None else moments.width
    state = f" + {moments.moments} × {width:g} moments" if moments.moments else ""
    lines = [
        f"{made.parameters:,.0f} parameters, {made.dtype}, {made.optimizer}",
        f"full checkpoint: {made.bytes_per_parameter:g} bytes a parameter ({kept.weight} weight{master}{state}) = "
        f"{spelled(made.parameters * made.bytes_per_parameter)}",
    ]
    if made.ranks > 1:
        lines.append(f"each of {made.ranks} ranks writes {spelled(made.rank_bytes)} of it")
    timed = any(role.seconds is not None for role in made.roles)
    rows = [("role", "every", "holds", "each", "keep", "total", *(["write"] if timed else []))]
    for role in made.roles:
        every = "by metric" if role.every is None else f"{role.every} steps"
        time = [] if role.seconds is None else [_seconds(role.seconds)]
        sizes = (spelled(role.bytes_each), str(role.keep), spelled(role.bytes))
        rows.append((role.role, every, role.contents, *sizes, *time))
    lines += ["", *table(rows, right=(3, 4, 5, 6), flexible=2, room=space), ""]
    lines.append(f"total on disk: {spelled(made.total)}, while saving {spelled(made.peak)}")
    count = sum(role.keep for role in made.roles)
    compared = {
        f"all {count} full": "all_full",
        "by role, rollback full": "full_rollback",
        "by role, rollback parameters only": "parameter_only_rollback",
    }
    lines += [f"  {text + ':':<35}{spelled(made.totals[key]):>8}" for text, key in compared.items()]
    lines += ["", "worst case, besides the steps that pass while a checkpoint is written:"]
    crash = "everything: no full state is kept" if made.lost_in_crash is None else f"{made.lost_in_crash} steps"
    spike = "everything: no checkpoint is kept"
    if made.lost_in_spike is not None:
        seen = f", if it is noticed within {made.reach} steps" if made.reach else ""
        spike = f"{made.lost_in_spike} steps before its onset{seen}"
    for what, loss in (("crash", crash), ("spike", spike)):
        lines += wrapped(f"a {what} loses up to {loss}", space, "  ")
    for text in made.advice:
        lines += ["", *wrapped(text, space, "advice: ")]
    return lines


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.2g} s"
