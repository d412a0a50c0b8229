"""`postmortem plan`."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from postmortem.cli._options import JsonOption
from postmortem.cli._output import print_json, print_lines
from postmortem.cli._terminal import columns, text_width
from postmortem.terminal_layout import Line, Span, table, wrap

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
        float | None, typer.Option("--write-gbps", metavar="X", help="Gigabytes per second, all ranks together.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="The policy as YAML or TOML, under the key checkpoint."),
    ] = None,
    rollback_every: Annotated[
        int | None, typer.Option("--rollback-every", metavar="STEPS", help="Steps between rollback checkpoints.")
    ] = None,
    rollback_keep: Annotated[
        int | None, typer.Option("--rollback-keep", metavar="N", help="Rollback checkpoints that are kept.")
    ] = None,
    rollback_contents: Annotated[
        str | None, typer.Option("--rollback-contents", metavar="WHAT", help="full or parameters.")
    ] = None,
    recovery_every: Annotated[
        int | None, typer.Option("--recovery-every", metavar="STEPS", help="Steps between recovery checkpoints.")
    ] = None,
    recovery_keep: Annotated[
        int | None, typer.Option("--recovery-keep", metavar="N", help="Recovery checkpoints that are kept.")
    ] = None,
    best_k: Annotated[
        int | None, typer.Option("--best-k", metavar="N", help="Best checkpoints, by a metric, that are kept.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What a checkpoint policy costs: space, time, lost steps.

    Without options, the policy is the default one of the recorder.

    \b
    Examples:
      postmortem plan --params 7e9 --dtype fp32 --optimizer adamw
      postmortem plan --params 7e9 --ranks 8 --rollback-contents parameters
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
    policy = Policy() if config is None else Policy.from_file(config)
    policy = replace(policy, **{key: value for key, value in given.items() if value is not None})
    storage = make_plan(params, dtype, optimizer, policy, ranks=ranks, write_gb_per_s=write_gbps)
    if as_json:
        roles = [asdict(role) | {"bytes": role.bytes} for role in storage.roles]
        print_json({**asdict(storage), "roles": roles, "total": storage.total})
        return
    width = text_width(sys.stdout)
    print_lines([*_sizes(storage, width), ()])
    print_lines([*_roles(storage, columns(sys.stdout)), ()])
    print_lines([*_totals(storage), (), *_losses(storage, width)])
    print_lines(line for text in storage.advice for line in ((), *wrap(text, width, head=(Span("advice: "),))))


def _sizes(storage: StoragePlan, width: int | None) -> list[Line]:
    from postmortem.checkpoint.plan import DTYPES, OPTIMIZERS, readable_size

    kept, moments = DTYPES[storage.dtype], OPTIMIZERS[storage.optimizer]
    master = f" + {kept.master} master" if kept.master else ""
    bytes_of_moment = kept.moment if moments.width is None else moments.width
    state = f" + {moments.moments} × {bytes_of_moment:g} moments" if moments.moments else ""
    size = readable_size(storage.parameters * storage.bytes_per_parameter)
    summands = f"{kept.weight} weight{master}{state}"
    texts = [
        f"{storage.parameters:,.0f} parameters, {storage.dtype}, {storage.optimizer}",
        f"full checkpoint: {storage.bytes_per_parameter:g} bytes per parameter ({summands}) = {size}",
    ]
    if storage.ranks > 1:
        texts.append(f"each of {storage.ranks} ranks writes {readable_size(storage.rank_bytes)} of it")
    return [line for text in texts for line in wrap(text, width, hang=2)]


def _roles(storage: StoragePlan, width: int | None) -> list[Line]:
    from postmortem.checkpoint.plan import readable_size

    timed = any(role.seconds is not None for role in storage.roles)
    rows = [("role", "every", "holds", "each", "keep", "total", *(["write"] if timed else []))]
    for role in storage.roles:
        every = "by metric" if role.every is None else f"{role.every} steps"
        time = [] if role.seconds is None else [_seconds(role.seconds)]
        sizes = (readable_size(role.bytes_each), str(role.keep), readable_size(role.bytes))
        rows.append((role.role, every, role.contents, *sizes, *time))
    return table(rows, width, right=(3, 4, 5, 6))


def _totals(storage: StoragePlan) -> list[Line]:
    from postmortem.checkpoint.plan import readable_size

    count = sum(role.keep for role in storage.roles)
    policies = {
        f"all {count} full": "all_full",
        "by role, rollback full": "full_rollback",
        "by role, rollback parameters only": "parameter_only_rollback",
    }
    total = f"total on disk: {readable_size(storage.total)}, while saving {readable_size(storage.peak)}"
    rows = (f"  {text + ':':<35}{readable_size(storage.totals[key]):>8}" for text, key in policies.items())
    return [(Span(text),) for text in (total, *rows)]


def _losses(storage: StoragePlan, width: int | None) -> list[Line]:
    crash, spike = "everything: no full state is kept", "everything: no checkpoint is kept"
    if storage.lost_in_crash is not None:
        crash = f"{storage.lost_in_crash} steps"
    if storage.lost_in_spike is not None:
        noticed = f", if it is noticed within {storage.reach} steps" if storage.reach else ""
        spike = f"{storage.lost_in_spike} steps before its onset{noticed}"
    lines = wrap("worst case, besides the steps that pass while a checkpoint is written:", width)
    for event, loss in (("crash", crash), ("spike", spike)):
        lines += wrap(f"a {event} loses up to {loss}", width, head=(Span("  "),))
    return lines


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.2g} s"
