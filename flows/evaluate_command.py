"""The words of `tokenmill evaluate`: its options, the parameters that they become, and the way back."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from tasks.evaluation.pack_reference import absolute_reference

if TYPE_CHECKING:
    from flows.parameters import EvaluateParameters
    from tasks.store import Store

NO_TASKS = "none"
"""What `--tasks` takes to ask none."""

RENAMED_IN = {
    ("evaluate", "Promotion"): {"guarded": "guard"},
    ("evaluate", "EvaluateParameters"): {"compare_with": "compare"},
}


def add_options(command: argparse.ArgumentParser, model: Callable[[str], str]) -> None:
    """`model` makes a checkpoint's folder absolute. What a value may be is decided by the flow's parameters."""
    command.epilog = (
        "examples: `tokenmill evaluate --model web-smoke@2 --compare web-smoke@1`; `tokenmill evaluate --model web@3"
        " --tasks academic=eval/:arc_easy,piqa --limit 500 --champion if_better --guard academic/piqa=0.01`"
    )
    command.add_argument(
        "--model", required=True, type=model, metavar="M", help="name[@version|@alias] or a checkpoint folder"
    )
    command.add_argument(
        "--profile", default="small", metavar="P", help="held-out documents: smoke 50, small (default) 200, full all"
    )
    command.add_argument(
        "--tasks",
        action="append",
        type=absolute_reference,
        metavar="PACK[=DIR][:T,T]",
        help="a pack of tasks, or some of its tasks: basics (default), academic=DIR (the folder of its files), the"
        " path of one of yours, or harness:T,T (stock tasks of lm-evaluation-harness, fetched); may be"
        f" repeated; {NO_TASKS}: held-out text alone",
    )
    command.add_argument("--limit", default=0, metavar="N", help="examples of each task at most (default: all)")
    command.add_argument("--compare", type=model, metavar="M", help="another model, asked the same")
    command.add_argument(
        "--contamination", action="store_true", help="search the training corpora for the examples of the tasks"
    )
    command.add_argument("--workers", default=1, metavar="N", help="processes that ask tasks and search (default: 1)")
    command.add_argument(
        "--champion",
        default="never",
        metavar="WHEN",
        help="move the alias champion: never (default), if_better (through the gate), or ask (on Prefect's page)",
    )
    command.add_argument(
        "--metric",
        default="bits_per_byte",
        metavar="F",
        help="on which it has to be better: bits_per_byte (default), PACK, PACK/TASK or PACK/TASK/METRIC",
    )
    command.add_argument(
        "--guard",
        action="append",
        default=[],
        metavar="F[=X]",
        help="a measure on which it must not be surely worse (by more than X); may be repeated",
    )


def parameters_of(options: argparse.Namespace) -> EvaluateParameters:
    """What the options ask for. ValueError for a value that they cannot have."""
    from flows.parameters import EvaluateParameters, Promotion, Scoring

    scoring = {name: getattr(options, name) for name in ("profile", "limit", "contamination", "workers")}
    if options.tasks:
        scoring["tasks"] = [] if options.tasks == [NO_TASKS] else options.tasks
    return EvaluateParameters(
        model=options.model,
        compare_with=options.compare or "",
        scoring=Scoring.model_validate(scoring),
        promotion=Promotion(champion=options.champion, metric=options.metric, guarded=options.guard),
        dry_run=options.dry_run,
    )


def evaluate_command(store: Store, parameters: EvaluateParameters) -> str:
    """`tokenmill evaluate ...` with these parameters; prompts are the form's alone."""
    scoring, promotion = parameters.scoring, parameters.promotion
    words = ["tokenmill", "evaluate", "--store", str(store.root), "--model", parameters.model]
    words += ["--profile", scoring.profile]
    words += [f"--tasks={reference}" for reference in scoring.tasks or [NO_TASKS]]
    words += [f"--limit={scoring.limit}"] if scoring.limit else []
    words += [f"--compare={parameters.compare_with}"] if parameters.compare_with else []
    words += ["--contamination"] if scoring.contamination else []
    words += [f"--workers={scoring.workers}"] if scoring.workers != 1 else []
    words += [f"--champion={promotion.champion}"] if promotion.champion != "never" else []
    words += [f"--metric={promotion.metric}", *(f"--guard={each}" for each in promotion.guarded)]
    return shlex.join(words)
