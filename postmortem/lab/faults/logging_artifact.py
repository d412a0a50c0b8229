"""The logger writes a wrong loss for one row, or a few; the training itself is not changed."""

from __future__ import annotations

from postmortem.lab.fault_plan import Fault, FaultPlan, Row


def _fill_plan(plan: FaultPlan) -> None:
    variant = plan.rng.choice(("scaled", "scaled", "unweighted"))
    rows = plan.rng.choice((1, 1, 1, 2))
    factor = round(plan.rng.uniform(2.0, 6.0), 2)

    def rewrite(step: int, row: Row) -> Row:
        if not plan.at <= step < plan.at + rows:
            return row
        return row | {"loss": row["loss"] * factor if variant == "scaled" else row["token_loss_max"]}

    plan.rewrite = rewrite
    plan.onset = plan.at
    plan.parameters = {"variant": variant, "rows": rows, "factor": factor if variant == "scaled" else None}


FAULT = Fault("logging_artifact", "only the log is wrong: a loss of another size in one or two rows", _fill_plan)
