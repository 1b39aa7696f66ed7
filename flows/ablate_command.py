"""The words of `tokenmill ablate`: its options, the parameters that they become, and the way back."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.evaluation.pack_reference import absolute_reference
from tasks.source_names import EMBEDDED, is_local_path

if TYPE_CHECKING:
    from flows.ablate_parameters import AblateParameters
    from tasks.store import Store

RENAMED_IN: dict[tuple[str, str], dict[str, str]] = {
    ("ablate", "Measure"): {"held_out_fraction": "held_out", "texts": "text"},
}


def add_options(command: argparse.ArgumentParser, curations: str, profiles: str) -> None:
    """What a value may be is decided by the flow's parameters, in one place."""
    command.epilog = (
        "example: `tokenmill ablate --source 'crawl/*.warc.gz' --recipe-a fineweb --recipe-b fineweb --set-b"
        " c4_lines.filter_curly_bracket=false --budget-tokens 3000000 --seeds 5`. Stopped, the same command goes on"
        " with what is finished"
    )
    command.add_argument(
        "--source",
        action="append",
        default=[],
        type=_absolute,
        metavar="S",
        help=f"as for refresh; may be repeated (default: {EMBEDDED})",
    )
    for letter, default in (("a", "documentation"), ("b", "fineweb")):
        command.add_argument(
            f"--recipe-{letter}", default=default, metavar="R", help=f"{curations} (default: {default})"
        )
        command.add_argument(
            f"--set-{letter}",
            action="append",
            default=[],
            type=_setting,
            metavar="KEY=VALUE",
            help=f"change one setting of recipe {letter}, such as gopher_quality.min_words=30; may be repeated",
        )
    command.add_argument("--profile", default="smoke", metavar="P", help=f"of the models: {profiles} (default: smoke)")
    command.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        type=_setting,
        metavar="KEY=VALUE",
        help="change one setting of the models' profile, such as learning_rate=0.001; may be repeated",
    )
    command.add_argument(
        "--budget-tokens", default=1_000_000, metavar="N", help="each model is trained on (default: 1000000)"
    )
    command.add_argument("--seeds", default=3, metavar="N", help="models of each recipe (default: 3)")
    command.add_argument(
        "--held-out", default=0.1, metavar="F", help="share of the pages that no model is trained on (default: .1)"
    )
    command.add_argument(
        "--pages", default=400, metavar="N", help="of the held-out pages, and of each table, at most (default: 400)"
    )
    command.add_argument(
        "--text",
        action="append",
        default=[],
        type=_absolute,
        metavar="FILE",
        help="JSONL, CSV or Parquet with a column text, to measure on as well (but for what much of stands in training"
        " text); the first one decides; may be repeated",
    )
    command.add_argument(
        "--tasks",
        action="append",
        default=[],
        type=absolute_reference,
        metavar="PACK[=DIR][:T,T]",
        help="packs of tasks to measure on as well",
    )
    command.add_argument("--workers", default=0, metavar="N", help="shards at a time (default: all CPUs of Ray)")


def parameters_of(options: argparse.Namespace) -> AblateParameters:
    """The form as the options fill it in. pydantic's ValidationError where a value can't be."""
    from flows.ablate_parameters import AblateParameters, Measure, Pages, Twins
    from flows.parameters import Rules

    first, *more = options.source or [EMBEDDED]
    return AblateParameters(
        pages=Pages(source=first, more_sources=more),
        recipe_a=Rules(recipe=options.recipe_a, settings=options.set_a),
        recipe_b=Rules(recipe=options.recipe_b, settings=options.set_b),
        twins=Twins(
            profile=options.profile,
            settings=options.settings,
            budget_tokens=options.budget_tokens,
            seeds=options.seeds,
        ),
        measure=Measure(
            held_out_fraction=options.held_out,
            pages=options.pages,
            texts=options.text,
            tasks=options.tasks,
        ),
        workers=options.workers,
        dry_run=options.dry_run,
    )


def ablate_command(store: Store, parameters: AblateParameters) -> str:
    """`tokenmill ablate ...` with these parameters: goes on where a run of it was stopped."""
    pages, twins, measure = parameters.pages, parameters.twins, parameters.measure
    words = ["tokenmill", "ablate", "--store", str(store.root)]
    words += [f"--source={source}" for source in (pages.source, *pages.more_sources)]
    for letter, rules in (("a", parameters.recipe_a), ("b", parameters.recipe_b)):
        words += [f"--recipe-{letter}={rules.recipe}", *(f"--set-{letter}={setting}" for setting in rules.settings)]
    words += [f"--profile={twins.profile}", *(f"--set={setting}" for setting in twins.settings)]
    words += [f"--budget-tokens={twins.budget_tokens}", f"--seeds={twins.seeds}"]
    words += [f"--held-out={measure.held_out_fraction}", f"--pages={measure.pages}"]
    words += [f"--text={text}" for text in measure.texts]
    words += [f"--tasks={pack}" for pack in measure.tasks]
    words += [f"--workers={parameters.workers}"] if parameters.workers else []
    return shlex.join(words)


def _setting(text: str) -> str:
    key, equals, _ = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form key=value")
    return text


def _absolute(text: str) -> str:
    """A local path made absolute, because drivers leave the current folder."""
    if not text or not is_local_path(text):
        return text
    return os.path.abspath(Path(text).expanduser())  # noqa: PTH100 - a glob must keep its pattern
