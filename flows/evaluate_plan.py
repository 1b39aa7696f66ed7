"""What an evaluation would do: everything that can be refused before any work, and what is asked of every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.approvals import check_approvable
from flows.parameters import EvaluateParameters, Promotion, Scoring
from infra.registry import ModelVersion, champion, find_model
from infra.settings import current_store
from tasks.checkpoints import read_state
from tasks.evaluation.asked_tasks import asked_tasks, guards, resolved_measure
from tasks.evaluation.bits_per_byte import choose_documents
from tasks.evaluation.gate import ModelGateRules
from tasks.evaluation.measures import slice_places
from tasks.evaluation.slices import cells, document_languages
from tasks.evaluation.task_pack import TaskPack
from tasks.inputs import Profile
from tasks.pack import TokenShards
from tasks.store import Store
from tasks.tokenization import find_tokens
from tasks.trained_corpora import TrainedCorpus, trained_corpora

MAX_DOCUMENTS: dict[Profile, int | None] = {"smoke": 50, "small": 200, "full": None}
"""Held-out documents that are scored, chosen by hash of their id; a larger choice contains every smaller one."""


@dataclass(frozen=True)
class EvaluatePlan:
    """What is scored on what, and the other models that it is held against, where there are some."""

    store: Store
    version: ModelVersion
    tokens: Path
    numbers: Sequence[int]  # of the held-out documents
    asked: Sequence[TaskPack]
    rules: ModelGateRules
    champion: ModelVersion | None
    compared: ModelVersion | None
    corpora: Sequence[tuple[TrainedCorpus, Path]]
    """That the model was trained on, as far as they are in the store."""

    @property
    def name(self) -> str:
        return f"evaluate {self.version.reference}"

    @property
    def others(self) -> Sequence[ModelVersion]:
        """Every other model that is asked the same, once."""
        found = {model.reference: model for model in (self.compared, self.champion) if model is not None}
        found.pop(self.version.reference, None)
        return list(found.values())

    def slices(self) -> Mapping[str, Sequence[int]]:
        """By measure, which of the held-out documents are in each slice. ValueError where a guarded one is not there.

        Languages are those of the corpus; where it is not in the store they are unknown.
        """
        shards = TokenShards(self.tokens, "held_out")
        ids = [shards.document(number).document_id for number in self.numbers]
        main = next((folder for corpus, folder in self.corpora if corpus.is_main), None)
        languages = document_languages(main, ids) if main is not None else {}
        found = slice_places(cells(shards, self.numbers, languages), self.numbers)
        for name in (self.rules.metric, *self.rules.guarded):
            if name.startswith("held_out/") and name not in found:
                raise ValueError(f"the held-out documents have no slice {name!r}; there is {', '.join(found)}")
        return found


def check_tasks(scoring: Scoring, promotion: Promotion) -> tuple[list[TaskPack], ModelGateRules]:
    """The tasks that are asked, and the rules of the gate. ValueError for what is not there, or not measured."""
    asked = asked_tasks(scoring.tasks, current_store().work)
    metric, guarded = resolved_measure(promotion.metric, asked), guards(promotion.guarded, asked)
    return asked, ModelGateRules(metric=metric, guarded=guarded)


def check_evaluate(parameters: EvaluateParameters) -> EvaluatePlan:
    """What can be refused before any work, as ValueError in one line; else what is to be done."""
    store = current_store()
    version = find_model(store, parameters.model)
    name, at, _ = version.reference.partition("@")
    wanted = parameters.promotion.champion
    if wanted != "never" and not at:
        raise ValueError(f"{parameters.model} is in no registry and can't be champion: name a model version")
    if wanted == "ask" and not parameters.dry_run:
        check_approvable()
    asked, rules = check_tasks(parameters.scoring, parameters.promotion)
    state = read_state(version.folder)
    tokens = find_tokens(store, corpus_digest=state.corpus_digest, tokens_digest=state.tokens_digests[0])
    compared = find_model(store, parameters.compare_with) if parameters.compare_with else None
    if compared is not None and compared.reference == version.reference:
        raise ValueError(f"{version.reference} is to be compared with itself; name another model")
    corpora = _corpora(store, version)
    if parameters.scoring.contamination:
        _check_contamination(version, asked, corpora)
    return EvaluatePlan(
        store=store,
        version=version,
        tokens=tokens,
        numbers=choose_documents(TokenShards(tokens, "held_out"), MAX_DOCUMENTS[parameters.scoring.profile]),
        asked=asked,
        rules=rules,
        champion=champion(store, name) if wanted != "never" else None,
        compared=compared,
        corpora=corpora,
    )


def _corpora(store: Store, version: ModelVersion) -> list[tuple[TrainedCorpus, Path]]:
    """The folders of the corpus versions whose content is still what the model was trained on."""
    known = set(store.names())
    found = []
    for corpus in trained_corpora(version.tags):
        name, _, number = corpus.corpus.partition("@")
        if name not in known or not number.isdecimal() or int(number) not in store.versions(name):
            continue
        if store.corpus_manifest(corpus.corpus)["digest"] == corpus.digest:
            found.append((corpus, store.corpus(corpus.corpus)))
    return found


def _check_contamination(
    version: ModelVersion, asked: Sequence[TaskPack], corpora: Sequence[tuple[TrainedCorpus, Path]]
) -> None:
    if not asked:
        raise ValueError("contamination is looked for in tasks, and none are asked: name a pack")
    there = {corpus.corpus for corpus, _ in corpora}
    if missing := [corpus.corpus for corpus in trained_corpora(version.tags) if corpus.corpus not in there]:
        raise ValueError(
            f"what {version.reference} was trained on, {missing[0] or 'which it does not say'}, is not in the store any"
            " more: leave the search for contamination out"
        )


def dry_run_evaluate(plan: EvaluatePlan, parameters: EvaluateParameters) -> dict[str, Any]:
    """What the run would do, as a plain mapping. Writes nothing."""
    limit = parameters.scoring.limit or None
    tasks = {f"{pack.name}/{task.name}": len(task.choose(limit)) for pack in plan.asked for task in pack.tasks}
    return {
        "dry_run": True,
        "model": plan.version.reference,
        "held_out_documents": len(plan.numbers),
        "token_shards": str(plan.tokens),
        "packs": [pack.reference for pack in plan.asked],
        "examples": tasks,
        "contamination": parameters.scoring.contamination,
        "prompts": len(parameters.scoring.prompts),
        "compared_with": [model.reference for model in plan.others],
        "promotion": parameters.promotion.champion,
        "champion": plan.champion.reference if plan.champion else "",
    }
