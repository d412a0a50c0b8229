"""Experiments for machines that only their own launcher can drive: one job per arm out, their results back in."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from postmortem.atomic import write_text
from postmortem.errors import UsageError
from postmortem.replay.order import Order
from postmortem.replay.prove import AGAIN, Bench
from postmortem.replay.starting import find_checkpoint
from postmortem.text import plain

JOBS, SCRIPT = "jobs.json", "jobs.sh"


def export(bench: Bench, folder: Path) -> list[Order]:
    """Write one order per arm, all independent of each other, into `folder`, with a list of jobs and a script of them.

    Raises:
        UsageError: the folder holds something else.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / JOBS).is_file())):
        raise UsageError(f"{plain(folder, 1000)}: is there already and holds no exported jobs; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    design = bench.design
    arms = dict.fromkeys([*design.placebos, *design.cross, *(arm for test in design.tests for arm in test.arms)])
    orders = [bench.null_order(), bench.null_order(AGAIN), *map(bench.order, arms)]
    jobs = [_job(bench, order, folder) for order in orders]
    for order in orders:
        write_text(_file(folder, order), order.to_json())
    write_text(folder / JOBS, json.dumps(jobs, indent=1) + "\n")
    lines = ["#!/bin/sh", "# One job a line, each by itself; under a launcher, put torchrun or srun before it.", ""]
    write_text(folder / SCRIPT, "\n".join([*lines, *(str(job["command"]) for job in jobs)]) + "\n")
    return orders


def _job(bench: Bench, order: Order, folder: Path) -> dict[str, object]:
    checkpoint = find_checkpoint(bench.subject.recorded, order)
    command = ["postmortem", "replay", "--order", str(_file(folder, order)), "--json"]
    command += ["--program", order.program] if order.program is not None else []
    return {
        "name": Path(order.out).name,
        "command": shlex.join([*command, "--trust"] if order.trusted else command),
        "checkpoint": None if checkpoint is None else bench.subject.inside(checkpoint),
        "skip": [change.body for change in order.changes if change.name == "skip"],
        "changes": [str(change) for change in order.changes],
        "from_step": order.from_step,
        "until": order.until,
    }


def _file(folder: Path, order: Order) -> Path:
    return folder / f"{Path(order.out).name}.json"
