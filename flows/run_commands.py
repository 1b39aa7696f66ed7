"""The commands that run a flow: what the options say becomes the flow's parameters, and its result is printed.

A dry run asks the flow's own estimate, without a flow run; `plan` does that with probe steps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flows.arguments import print_json
from tasks.source_names import EMBEDDED, is_embedded, source_name
from tasks.store import Store


def _estimated(options: argparse.Namespace, estimate: Mapping[str, Any]) -> int:
    _print_facts(estimate)
    return print_json(options, estimate)


def _print_facts(facts: Mapping[str, Any], indent: str = "") -> None:
    for key, value in facts.items():
        name = indent + key.replace("_", " ")
        if isinstance(value, Mapping):
            print(name)
            _print_facts(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            print(name)
            for each in value:
                print(f"{indent}  {', '.join(f'{key} {_shown(entry)}' for key, entry in each.items())}")
        else:
            print(f"{name:<32}{_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "-" if value is None else str(value)


def _preview(options: argparse.Namespace, _: Store) -> int:
    from flows.console import preview_lines
    from flows.parameters import PreviewParameters, Rules
    from flows.preview import check_preview, preview_corpus

    first, *more = options.source
    parameters = PreviewParameters(
        source=first,
        more_sources=more,
        rules=Rules(recipe=options.recipe, settings=options.settings),
        pages=options.pages,
        seed=options.seed,
        workers=options.workers,
    )
    check_preview(parameters)  # before Prefect starts
    result = preview_corpus(parameters)
    print("\n".join(preview_lines(result)))
    print(f"report  {result['report']}")
    return print_json(options, result)


def _refresh(options: argparse.Namespace, _: Store) -> int:
    from flows.console import funnel_lines
    from flows.parameters import Curation, Execution, Input, RefreshParameters
    from flows.refresh_corpus import check_refresh, dry_run_refresh, refresh_corpus
    from tasks.store import checked_name

    checked_name(options.name)
    first, *more = options.source
    parameters = RefreshParameters(
        name=options.name,
        input=Input(source=first, more_sources=more, profile=options.profile, replace=options.replace),
        curation=Curation(recipe=options.recipe, settings=options.settings, allow_wipe_out=options.allow_wipe_out),
        execution=Execution(workers=options.workers, dry_run=options.dry_run),
    )
    recipe = check_refresh(parameters)  # before Prefect starts
    if options.dry_run:
        return _estimated(options, dry_run_refresh(parameters, recipe))
    result = refresh_corpus(parameters)
    if not result["changed"]:
        print(f"no change: {result['corpus']} was made from these inputs with this recipe; nothing was recomputed")
    print("\n".join(funnel_lines(result)))
    if result["waiting_files"]:
        print(f"{'files waiting for the next run':<40}{result['waiting_files']:>10,}")
    print(f"{result['corpus']}  digest {result['digest']}\n{result['path']}")
    return print_json(options, result)


def _pretrain(options: argparse.Namespace, _: Store) -> int:
    from flows.parameters import Consent, PretrainParameters, Training
    from flows.pretrain import pretrain
    from flows.pretrain_plan import check_pretrain, dry_run_pretrain

    parameters = PretrainParameters(
        corpus=options.corpus,
        more_corpora=options.mix,
        training=Training(
            profile=options.recipe,
            settings=options.settings,
            model=options.model,
            retrain_tokenizer=options.retrain_tokenizer,
            checkpoints=options.checkpoints,
        ),
        resume_from=options.resume_from,
        workers=options.workers,
        min_workers=options.min_workers,
        consent=Consent(min_new_tokens=options.min_new_tokens),
        dry_run=options.dry_run,
    )
    plan = check_pretrain(parameters)
    if options.dry_run:
        return _estimated(options, dry_run_pretrain(plan, parameters))
    result = pretrain(parameters)
    _print_training(result)
    return print_json(options, result)


def _print_training(result: Mapping[str, Any]) -> None:
    from flows.console import training_lines

    if not result["trained"]:
        print(f"not trained      {result['why_not']}")
        return
    print("\n".join(training_lines(result)))


def _plan(options: argparse.Namespace, _: Store) -> int:
    from flows.console import console
    from flows.parameters import PretrainParameters, Training
    from flows.pretrain_corpora import copies_warning
    from flows.pretrain_plan import plan_pretrain
    from tasks.plan_table import plan_rows

    parameters = PretrainParameters(
        corpus=options.corpus,
        more_corpora=options.mix,
        training=Training(profile=options.recipe, settings=options.settings),
        workers=options.workers,
        min_workers=options.min_workers,
        dry_run=True,
    )
    run = plan_pretrain(parameters)
    if not options.no_probe:
        console.say("taking probe steps, for about a minute")
    plan = run.training_plan(probe=not options.no_probe, price_per_device_hour=options.price)
    for name, value in plan_rows(plan):
        print(f"{name:<20}{value}")
    copies = run.held_out_copies()
    if warning := copies_warning(copies):
        print(f"{'warning':<20}{warning}")
    return print_json(options, plan.as_json() | ({"held_out_copies": copies} if copies else {}))


def _evaluate(options: argparse.Namespace, _: Store) -> int:
    from flows.evaluate import evaluate
    from flows.evaluate_command import parameters_of
    from flows.evaluate_plan import check_evaluate, dry_run_evaluate

    parameters = parameters_of(options)
    plan = check_evaluate(parameters)
    if options.dry_run:
        return _estimated(options, dry_run_evaluate(plan, parameters))
    result = evaluate(parameters)
    print("\n".join(result["table"]))
    if result["promotion"]["why"]:
        print(result["promotion"]["why"])
    return print_json(options, result)


def _pipeline(options: argparse.Namespace, store: Store) -> int:
    from flows.parameters import Consent, Curation, Execution, Input, PipelineParameters, Training
    from flows.pipeline import check_pipeline, dry_run_pipeline, pipeline

    sources = options.source or [EMBEDDED]
    if options.pages:
        if sources != [EMBEDDED]:
            raise ValueError("--pages goes with the default source only")
        sources = [f"{EMBEDDED}:{options.pages}"]
    changed: dict[str, list[str]] = {"curation": [], "training": []}
    for setting in options.settings:
        group, _, rest = setting.partition(".")
        if group not in changed:
            raise ValueError(f"unknown setting {setting.partition('=')[0]!r}: begin with curation. or training.")
        changed[group].append(rest)
    first, *more = sources
    embedded = is_embedded(first)
    parameters = PipelineParameters(
        name=options.name or ("docs" if embedded else source_name(first)),
        input=Input(source=first, more_sources=more, profile=options.input_profile, replace=options.replace),
        curation=Curation(
            recipe=options.curation or ("documentation" if embedded else "fineweb"),
            settings=changed["curation"],
            allow_wipe_out=options.allow_wipe_out,
        ),
        training=Training(
            profile=options.profile, settings=changed["training"], retrain_tokenizer=options.retrain_tokenizer
        ),
        consent=Consent(min_new_tokens=options.min_new_tokens),
        execution=Execution(workers=options.workers, dry_run=options.dry_run),
    )
    recipes = check_pipeline(parameters)
    if options.dry_run:
        return _estimated(options, dry_run_pipeline(parameters, *recipes))
    result = pipeline(parameters)
    _print_pipeline(result, store)
    return print_json(options, result)


def _print_pipeline(result: Mapping[str, Any], store: Store) -> None:
    from flows.console import funnel_lines

    refreshed, trained, evaluated = result["refresh"], result["pretrain"], result["evaluate"]
    print("\n".join(funnel_lines({**refreshed, "tokens": trained.get("tokens_in_corpus")})))
    print()
    _print_training(trained)
    if evaluated is not None:
        print("\n".join(["", *evaluated["table"], "", "samples"]))
        for sample in evaluated["samples"]:
            print(f"  {sample['prompt']}|{' '.join(sample['continuation'].split())}")
    print(f"\ncorpus           {refreshed['corpus']} in {refreshed['path']}")
    command = Path(sys.executable).with_name("tokenmill")
    print(f"look at it       {command} up --store {store.root}    (Prefect and MLflow on this history)")


def _train_classifier(options: argparse.Namespace, _: Store) -> int:
    from flows.classifier_command import parameters_of
    from flows.classifier_plan import check_train_classifier, dry_run_train_classifier
    from flows.train_classifier import train_classifier

    parameters = parameters_of(options)
    plan = check_train_classifier(parameters)  # before Prefect starts
    if options.dry_run:
        return _estimated(options, dry_run_train_classifier(plan, parameters))
    result = train_classifier(parameters)
    for name, value in sorted(result["scores"].items()):
        print(f"{name:<40}{value:>16,.4f}")
    print(result["pinned"])
    return print_json(options, result)


def _ablate(options: argparse.Namespace, _: Store) -> int:
    from flows.ablate import ablate
    from flows.ablate_command import parameters_of
    from flows.ablate_plan import check_ablate, dry_run_ablate

    parameters = parameters_of(options)
    plan = check_ablate(parameters)  # before Prefect starts
    if options.dry_run:
        return _estimated(options, dry_run_ablate(plan, parameters))
    result = ablate(parameters)
    print(f"{result['verdict']}\n\nreport   {result['report']}\npicture  {result['picture']}")
    return print_json(options, result)


def _reconcile(options: argparse.Namespace, _: Store) -> int:
    from flows.parameters import ReconcileParameters
    from flows.reconcile import reconcile

    result = reconcile(ReconcileParameters(min_age_minutes=options.min_age_minutes, dry_run=options.dry_run))
    for action in result["actions"]:
        print(f"{'would: ' if options.dry_run else ''}{action['what']:<28}{action['name']}  ({action['why']})")
    if not result["actions"]:
        print("nothing to do: no killed run has left anything")
    return print_json(options, result)


def _takedown(options: argparse.Namespace, _: Store) -> int:
    from flows.takedown import TakedownParameters, check_takedown, takedown
    from tasks.takedown_report import takedown_lines

    parameters = TakedownParameters(
        urls=options.url,
        domains=options.domain,
        documents=options.document,
        name=options.name,
        only=options.only,
        reason=options.reason,
        apply=options.apply,
        purge=options.purge,
    )
    check_takedown(parameters)  # before Prefect starts
    report = takedown(parameters)
    print("\n".join(takedown_lines(report)))
    return print_json(options, report)


COMMANDS: Mapping[str, Callable[[argparse.Namespace, Store], int]] = {
    "preview": _preview,
    "refresh": _refresh,
    "pretrain": _pretrain,
    "plan": _plan,
    "evaluate": _evaluate,
    "pipeline": _pipeline,
    "train-classifier": _train_classifier,
    "ablate": _ablate,
    "reconcile": _reconcile,
    "takedown": _takedown,
}
