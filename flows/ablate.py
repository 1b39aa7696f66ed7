"""Two recipes on the same pages: which one's models are better, and whether that is more than noise."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import State, flow
from prefect.states import Completed

from flows.ablate_command import ablate_command
from flows.ablate_parameters import AblateParameters
from flows.ablate_plan import LETTERS, MAX_PASSES, AblatePlan, Letter, check_ablate, dry_run_ablate
from flows.ablate_results import begin, earlier_run, record
from flows.ablate_twins import AblatedCorpus, Twin, plan_twins, train_twins
from flows.console import console
from flows.progress import progress
from flows.stages import (
    estimated,
    flow_scope,
    link_tracking,
    one_line_failures,
    prefect_tags,
    run_as_task,
)
from flows.training_slot import training_slot
from infra.mlflow_tracker import tracked_run
from infra.ray_map import ray_cluster
from tasks.ablation.pages import HELD_OUT, EvaluationPages, evaluation_pages, text_groups
from tasks.ablation.report import (
    GroupComparison,
    RecipeFacts,
    TwinFacts,
    compare_groups,
    verdict_sentence,
)
from tasks.ablation.scoring import Scores, score_twins
from tasks.ablation.tokens import page_shards, shared_tokenizer
from tasks.ablation.verdict import MIN_DOCUMENTS
from tasks.curation import make_version
from tasks.model_files import models_in
from tasks.pack import TokenShards
from tasks.ports import ShardMap
from tasks.recipes.pretraining import PretrainRecipe
from tasks.refresh import Refresh
from tasks.tokenizer import TOKENIZER_FILE
from tasks.version_facts import corpus_sizes


class FailedTwinsError(ValueError):
    """Not all models could be trained: there is no verdict, and what there is, is shown."""


@flow(
    name="ablate",
    flow_run_name="ablate {parameters.recipe_a.recipe} {parameters.recipe_b.recipe}",
    persist_result=False,
)
@one_line_failures
def ablate(parameters: AblateParameters) -> dict[str, Any] | State[dict[str, Any]]:
    """Curate twice from the same pages, train twin models on equal tokens, measure them on text that none has seen.

    The same recipes, pages and settings find what is finished of an earlier run, and go on from there. Returns outcome
    ("a is better", "b is better", "not told apart"), verdict, difference, groups, recipes, twins, report, picture,
    mlflow_run_id; a dry run its estimate. FailedTwinsError (a ValueError) where a training diverged.
    """
    plan = check_ablate(parameters)
    if parameters.dry_run:
        return estimated(dry_run_ablate(plan, parameters), "an ablation")
    store = plan.store
    with flow_scope(store, retry=ablate_command(store, parameters)), models_in(store.models):
        names = run_as_task("collect", plan.corpus_names, progress, write=True)
        report_dir = plan.report_dir(names)
        with store.lock(report_dir.name):
            result = _ablate(plan, parameters, names, report_dir)
    return Completed(message=result["verdict"], data=result)


def _ablate(
    plan: AblatePlan, parameters: AblateParameters, names: Mapping[Letter, str], report_dir: Path
) -> dict[str, Any]:
    """The run in MLflow, from its link to its end; its twins' runs are its children."""
    store = plan.store
    title = f"ablation {_title(parameters, 'a')} | {_title(parameters, 'b')}"
    tags = {"tokenmill.flow": "ablate", **prefect_tags(store)}
    resume, lock = earlier_run(report_dir), report_dir.name
    with tracked_run(store, title[:250], tags=tags, resume=resume, lock=lock) as tracker:
        link_tracking(store, tracker.experiment_id, tracker.run_id)
        begin(report_dir, tracker.run_id)
        configuration: dict[str, Any] = {
            "parameters": parameters.model_dump(mode="json"),
            "recipes": {letter: recipe.model_dump(mode="json") for letter, recipe in plan.recipes.items()},
            "training": plan.training.model_dump(mode="json"),
        }
        tracker.parameters(configuration["parameters"])
        tracker.json(configuration, "config.json")
        with ray_cluster(parameters.workers or None) as shard_map:
            curated = {
                letter: run_as_task(f"curate {letter}", _curated, plan, letter, names[letter], shard_map)
                for letter in LETTERS
            }
            for letter, (folder, manifest, _) in curated.items():
                reference = f"{manifest['name']}@{manifest['version']}"
                tracker.dataset(
                    reference, manifest["digest"], folder, f"recipe {letter}", corpus_sizes(manifest), is_main=False
                )
            pages = run_as_task("pages", _pages, plan, curated, shard_map)
            corpora = run_as_task("tokenize", _tokenized, plan, curated, shard_map)
            recipes = [_recipe_facts(plan, parameters, corpora[letter], *curated[letter][1:]) for letter in LETTERS]
            for recipe in recipes:
                _say_what_is_odd(recipe)
            twins = plan_twins(plan, corpora)
            with training_slot():
                facts = train_twins(store, twins)
            failed = [each for each in facts if each.failure]
            groups: list[GroupComparison] = []
            not_compared: dict[str, str] = {}
            if not failed:
                groups, not_compared = compare_groups(run_as_task("score", _scores, plan, twins, pages, shard_map))
        verdict = _no_verdict(failed, len(facts)) if failed else verdict_sentence(groups[0], recipes)
        result = record(tracker, report_dir, title, verdict, groups, not_compared, recipes, facts, pages)
        if failed:
            raise FailedTwinsError(verdict)
        return result


def _title(parameters: AblateParameters, letter: Letter) -> str:
    rules = parameters.rules(letter)
    return " ".join((rules.recipe, *rules.settings))


def _curated(plan: AblatePlan, letter: Letter, name: str, shard_map: ShardMap) -> tuple[Path, dict[str, Any], float]:
    """A recipe's corpus of the pages: its folder, its manifest, and the seconds that it took now.

    It is announced to nobody. A recipe that wipes out a whole site is a question as good as any: what was wiped out is
    told with the result, and the version says so.
    """
    store, started_s = plan.store, time.monotonic()
    with store.lock(f"corpus-{name}"):
        refresh = Refresh.plan(store, name, plan.sources, plan.recipes[letter], progress=progress)
        if (published := refresh.published()) is not None:
            return (*published, 0.0)
        facts = prefect_tags(store)
        folder, manifest = make_version(refresh, shard_map, progress, facts, allow_wipe_out=True)
    return folder, manifest, time.monotonic() - started_s


Curated = Mapping[Letter, tuple[Path, dict[str, Any], float]]


def _pages(plan: AblatePlan, curated: Curated, shard_map: ShardMap) -> EvaluationPages:
    """What is measured on. ValueError where that is too little."""
    for letter, (_, manifest, _) in curated.items():
        if not manifest["documents_kept"]:
            raise ValueError(
                f"recipe {letter} keeps nothing of {manifest['records_in']:,} records: `tokenmill show"
                f" {manifest['name']}` says why"
            )
    pages = evaluation_pages(
        plan.store.work,
        [(folder, manifest["digest"]) for folder, manifest, _ in curated.values()],
        plan.texts,
        shard_map,
        progress,
        held_out_fraction=plan.held_out_fraction,
        max_pages=plan.max_pages,
    )
    numbers = dict.fromkeys([*text_groups(plan.texts), HELD_OUT], 0)
    for group, _ in {(text.group, text.page) for text in pages.texts()}:
        numbers[group] += 1
    deciding, number = next(iter(numbers.items()))
    if number < MIN_DOCUMENTS:
        raise ValueError(
            f"there are {number} {deciding} to measure on, {MIN_DOCUMENTS} are the least (both recipes keep"
            f" {pages.counts.kept_by_both:,} of the held-out pages): hold out more, or give more pages or texts"
        )
    return pages


def _tokenized(plan: AblatePlan, curated: Curated, shard_map: ShardMap) -> dict[Letter, AblatedCorpus]:
    store, fraction = plan.store, plan.held_out_fraction
    versions = [(folder, manifest["digest"]) for folder, manifest, _ in curated.values()]
    tokenizer = shared_tokenizer(store, versions, plan.training.tokenizer, fraction, shard_map, progress)
    return {
        letter: AblatedCorpus(
            letter=letter,
            reference=f"{manifest['name']}@{manifest['version']}",
            folder=folder,
            digest=manifest["digest"],
            tokens=page_shards(store, (folder, manifest["digest"]), tokenizer, fraction, shard_map, progress),
        )
        for letter, (folder, manifest, _) in curated.items()
    }


def _recipe_facts(
    plan: AblatePlan,
    parameters: AblateParameters,
    corpus: AblatedCorpus,
    manifest: Mapping[str, Any],
    curation_s: float,
) -> RecipeFacts:
    rules, train_tokens = parameters.rules(corpus.letter), TokenShards(corpus.tokens).num_tokens
    return RecipeFacts(
        letter=corpus.letter,
        recipe=rules.recipe,
        settings=tuple(rules.settings),
        corpus=corpus.reference,
        records_in=manifest["records_in"],
        documents_kept=manifest["documents_kept"],
        removed={stage: sum(reasons.values()) for stage, reasons in manifest["removed"].items()},
        wipe_outs=len(manifest["wipe_outs"]),
        text_bytes=manifest["text_bytes"],
        train_tokens=train_tokens,
        passes=round(_tokens_each(plan.training) / max(1, train_tokens), 3),
        curation_s=round(curation_s, 1),
    )


def _tokens_each(training: PretrainRecipe) -> int:
    """That each model is trained on: the budget in whole batches, however large a corpus is."""
    return training.num_steps(0) * training.batch_tokens(0)


def _say_what_is_odd(recipe: RecipeFacts) -> None:
    if recipe.passes > MAX_PASSES:
        console.say(
            f"recipe {recipe.letter} leaves {recipe.train_tokens:,} tokens to train on, and each model passes over them"
            f" {recipe.passes:.1f} times: more than {MAX_PASSES} teach little; lower the budget, or give more pages"
        )
    if recipe.wipe_outs:
        console.say(
            f"recipe {recipe.letter} wipes out {recipe.wipe_outs} groups of pages all but wholly: {recipe.corpus} says"
            " which"
        )


def _scores(
    plan: AblatePlan, twins: Sequence[Twin], pages: EvaluationPages, shard_map: ShardMap
) -> dict[str, list[Mapping[str, Scores]]]:
    """By recipe those of each model; the group that decides comes first."""
    tokenizer = twins[0].corpus.tokens / TOKENIZER_FILE
    trained = [twin.trained for twin in twins]
    scored = score_twins(plan.store.work, trained, tokenizer, pages, shard_map, progress, examples=plan.examples)
    first = [group for group in (*text_groups(plan.texts), HELD_OUT) if group in scored[0]]
    groups = dict.fromkeys([*first, *scored[0]])
    return {
        letter: [
            {group: scores[group] for group in groups}
            for twin, scores in zip(twins, scored, strict=True)
            if twin.corpus.letter == letter
        ]
        for letter in LETTERS
    }


def _no_verdict(failed: Sequence[TwinFacts], num_twins: int) -> str:
    why = "; ".join(f"{twin.name}: {twin.failure}" for twin in failed)
    return f"no verdict, {len(failed)} of {num_twins} models could not be trained: {why}"
