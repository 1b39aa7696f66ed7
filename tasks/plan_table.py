"""A training plan as a table for people: on the terminal, in Prefect and in MLflow."""

from __future__ import annotations

from tasks.markdown import markdown_table
from tasks.plan import TrainingPlan
from tasks.planned_sizes import gigabytes


def plan_rows(plan: TrainingPlan) -> list[tuple[str, str]]:
    """The plan as a table for people, a name and a value each."""
    about = "" if plan.length_is_exact else "about "
    corpus_about = "" if plan.corpus_is_counted else "about "
    epochs = f"{plan.epochs:g} epochs of {corpus_about}{plan.estimated_corpus_tokens:,} tokens"
    shared = f", shared by {plan.workers} workers" if plan.workers > plan.num_devices else ""
    rows = [
        ("corpus", plan.corpus),
        ("network", f"{plan.model}, {plan.parameters:,} parameters"),
        ("devices", f"{plan.num_devices} x {plan.device}{shared}"),
        ("tokens", f"{about}{plan.tokens:,}, {plan.tokens_per_parameter:g} a parameter; {epochs}"),
        *(
            (f"  {share.corpus}", f"{share.tokens:,}; {share.epochs:g} epochs; weight {share.weight:g}")
            for share in plan.mixture
        ),
        ("steps", f"{about}{plan.num_steps:,} of {plan.batch_tokens:,} tokens"),
        ("operations", f"{plan.flop:.3g} FLOP"),
        ("memory a device", f"{gigabytes(plan.peak_bytes)} of {gigabytes(plan.device_bytes)}"),
    ]
    rows += [(f"  {name}", gigabytes(size)) for name, size in plan.memory.items() if size]
    rows.append(("disk", f"{gigabytes(plan.disk_bytes)} of {gigabytes(plan.free_disk_bytes)} free"))
    rows += [(f"  {name}", gigabytes(size)) for name, size in plan.disk.items() if size]
    rows.append(("time", "not known" if plan.seconds is None else f"about {_duration(plan.seconds)}"))
    rows += [(f"  {name}", _duration(seconds)) for name, seconds in plan.seconds_of.items()]
    if plan.tokens_per_s is not None:
        rows.append(("speed", f"{plan.tokens_per_s:,.0f} tokens/s"))
    rows.append(("based on", plan.based_on))
    if plan.price_per_device_hour is not None:
        cost = "not known" if plan.cost is None else f"{plan.cost:,.2f}"
        rows.append(("cost", f"{cost} at {plan.price_per_device_hour:g} a device and hour"))
    return rows


def plan_markdown(plan: TrainingPlan) -> str:
    """The same for Prefect's and MLflow's pages."""
    rows, whole = [], ""
    for name, value in plan_rows(plan):
        if name.startswith(" "):  # a part: pages show no indentation
            rows.append((f"{whole}: {name.strip()}", value))
        else:
            whole = name
            rows.append((name, value))
    return markdown_table(["plan", ""], rows)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
