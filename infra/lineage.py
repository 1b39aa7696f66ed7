"""What has been made of documents: token shards, tokenizers, training runs, registered models.

All of these name the corpus versions that they were made of by digest, a mixture all of its own. Whether a model has
seen a document depends on the split that it fell into: what was held out measured the model, and did not train it.
Where the token shards are gone that cannot be told any more, and the model counts as trained on it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc
import pyarrow.parquet as pq
from mlflow.entities import Run

from infra.earlier_run import RUN_DIR_TAG
from infra.mlflow_tracker import EXPERIMENT
from infra.registry import model_references
from infra.run_links import run_page
from infra.tracking_client import answered, client
from tasks.pack import MANIFEST as TOKENS_MANIFEST
from tasks.pack import SPLITS, Split
from tasks.store import RUN_RECORD, Store
from tasks.takedown import FoundRecord, TakedownSearch, among
from tasks.trained_corpora import TrainedCorpus, trained_corpora

CONTAINS_TAG = "tokenmill.contains_taken_down"
"""Of a model version: the ids of the audit records that name what it was trained on, with commas between them."""

Relation = Literal["trained on", "trained on, as far as can be told", "tokenizer trained on", "evaluated on"]
"""In falling order of weight. "evaluated on": held out, and never trained on."""
_RELATIONS: tuple[Relation, ...] = (
    "trained on",
    "trained on, as far as can be told",
    "tokenizer trained on",
    "evaluated on",
)
_FLOWS = ("pretrain", "evaluate", "refresh_corpus")
_PAGE_RUNS = 1000


@dataclass(frozen=True)
class SplitShare:
    """How much of the documents is in one split of token shards."""

    num_documents: int
    num_tokens: int
    buckets: tuple[str, ...]


@dataclass(frozen=True)
class TokenFolder:
    """A folder of token shards that holds some of the documents."""

    name: str
    corpora: tuple[str, ...]  # name@version of those with its corpus digest
    corpus_digest: str
    tokenizer_sha256: str
    splits: Mapping[Split, SplitShare]


@dataclass(frozen=True)
class TokenizerUse:
    """A tokenizer that was trained on a version with some of the documents."""

    name: str  # below the store's tokenizers/
    sha256: str
    corpus_digest: str


@dataclass(frozen=True)
class RunUse:
    """A run in MLflow on a version with some of the documents."""

    run_id: str
    name: str
    flow: str
    status: str
    corpus: str
    page: str
    relation: Relation | Literal["published"]
    """"published": a refresh, whose card and samples may quote them."""
    checkpoints: str  # folder or URL; "" where it has none


@dataclass(frozen=True)
class ModelUse:
    """A registered model version."""

    reference: str  # name@version
    relation: Relation
    corpus: str
    run_id: str
    checkpoint: str


@dataclass(frozen=True)
class Lineage:
    """Everything that was made of the documents."""

    held_by: tuple[str, ...]  # name@version that have them as documents, or did before a purge
    tokens: tuple[TokenFolder, ...] = ()
    tokenizers: tuple[TokenizerUse, ...] = ()
    runs: tuple[RunUse, ...] = ()
    models: tuple[ModelUse, ...] = ()


@dataclass(frozen=True)
class _Holding:
    """The corpus digests under which some of the documents were published."""

    ids: Mapping[str, frozenset[str]]  # by digest
    corpora: Mapping[str, tuple[str, ...]]  # by digest: name@version
    references: tuple[str, ...] = field(default=())


def trace(store: Store, search: TakedownSearch, records: Mapping[str, FoundRecord]) -> Lineage:
    """What was made of `records`, which `search` has found.

    Token shards are looked at here; of those that only the remote has nothing is said. Waits for MLflow as `answered`
    does.
    """
    holding = _holding(search, records)
    tokens = tuple(_token_folders(store, holding))
    tokenizers = tuple(_tokenizers(store, holding, tokens))
    judge = _Judge(store, holding, {folder.name: folder for folder in tokens}, {use.sha256 for use in tokenizers})
    runs = answered(lambda: _runs(store, holding, judge), "looking for training runs")
    models = answered(lambda: _models(store, judge), "looking for models")
    return Lineage(holding.references, tokens, tokenizers, tuple(runs), tuple(models))


def tag_models(store: Store, references: Sequence[str], audit: str) -> None:
    """Note the audit record on each of the model versions (name@version); a person decides what becomes of them."""
    registry = client(store)
    known = {f"{model.name}@{model.version}": model.tags.get(CONTAINS_TAG, "") for model in model_references(store)}
    for reference in references:
        audits = [one for one in known.get(reference, "").split(",") if one]
        if audit not in audits:
            name, _, version = reference.partition("@")
            registry.set_model_version_tag(name, version, CONTAINS_TAG, ",".join([*audits, audit]))


def _holding(search: TakedownSearch, records: Mapping[str, FoundRecord]) -> _Holding:
    ids: dict[str, frozenset[str]] = {}
    corpora: dict[str, tuple[str, ...]] = {}
    references: list[str] = []
    for version in search.versions:
        states = {one: record.versions.get(version.reference) for one, record in records.items()}
        kept = {one for one, state in states.items() if state and state.outcome == "kept"}
        once = {one for one, state in states.items() if state and state.was_kept}
        if once:
            references.append(version.reference)
        for digest in version.digests:
            held = kept if digest == version.manifest["digest"] else once
            if held:
                ids[digest] = ids.get(digest, frozenset()) | held
                corpora[digest] = (*corpora.get(digest, ()), version.reference)
    return _Holding(ids, corpora, tuple(references))


def _token_folders(store: Store, holding: _Holding) -> list[TokenFolder]:
    found = []
    for file in sorted(store.tokens.glob(f"*/{TOKENS_MANIFEST}")):
        if file.parent.name.startswith("."):
            continue
        manifest = json.loads(file.read_bytes())
        ids = holding.ids.get(manifest["corpus_digest"])
        if ids is None:
            continue
        buckets = [bucket["name"] for bucket in manifest["buckets"]]
        shares = {split: _share(file.parent, split, buckets, ids) for split in SPLITS}
        splits = {split: share for split, share in shares.items() if share.num_documents}
        found.append(
            TokenFolder(
                file.parent.name,
                holding.corpora[manifest["corpus_digest"]],
                manifest["corpus_digest"],
                manifest["tokenizer_sha256"],
                splits,
            )
        )
    return found


def _share(folder: Path, split: Split, buckets: Sequence[str], ids: Collection[str]) -> SplitShare:
    """What the index of a split says of these documents, bucket by bucket."""
    documents, tokens, names = 0, 0, []
    for bucket in buckets:
        table = pq.read_table(
            folder / f"{bucket}.{split}.parquet",
            columns=["num_tokens"],
            filters=among("document_id", ids),
        )
        if len(table):
            documents, tokens = documents + len(table), tokens + pc.sum(table["num_tokens"]).as_py()
            names.append(bucket)
    return SplitShare(documents, tokens, tuple(names))


def _tokenizers(store: Store, holding: _Holding, tokens: Sequence[TokenFolder]) -> list[TokenizerUse]:
    """Those that were trained on such a version, unless its token shards show that all of it was held out."""
    held_out = {folder.corpus_digest for folder in tokens}
    held_out -= {folder.corpus_digest for folder in tokens if "train" in folder.splits}
    found = []
    for file in sorted(store.tokenizers.glob("*/*/*/manifest.json")):
        manifest = json.loads(file.read_bytes())
        digest = manifest["corpus_digest"]
        if digest in holding.ids and digest not in held_out:
            name = file.parent.relative_to(store.tokenizers).as_posix()
            found.append(TokenizerUse(name, manifest["sha256"], digest))
    return found


@dataclass(frozen=True)
class _Judge:
    """Tells how a training has used the documents."""

    store: Store
    holding: _Holding
    tokens: Mapping[str, TokenFolder]
    tokenizers: Collection[str]

    def relation(self, corpus: TrainedCorpus, tokenizer_sha256: str) -> Relation | None:
        """Of one corpus of a training with a tokenizer; None where it has not used them."""
        by_tokenizer: Relation | None = "tokenizer trained on" if tokenizer_sha256 in self.tokenizers else None
        if corpus.digest not in self.holding.ids:
            return by_tokenizer
        folder = self.tokens.get(corpus.tokens_name)
        if folder is None or folder.corpus_digest != corpus.digest:
            return "trained on, as far as can be told"
        if "train" in folder.splits:
            return "trained on"
        is_scored = corpus.is_main and "held_out" in folder.splits  # of the others what is held out is not looked at
        return by_tokenizer or ("evaluated on" if is_scored else None)

    def heaviest(
        self, corpora: Sequence[TrainedCorpus], tokenizer_sha256: str
    ) -> tuple[Relation, TrainedCorpus] | None:
        """The heaviest use by a training on all these, and the first corpus that it was made by."""
        uses = [(relation, one) for one in corpora if (relation := self.relation(one, tokenizer_sha256)) is not None]
        return min(uses, key=lambda use: _RELATIONS.index(use[0]), default=None)


def _runs(store: Store, holding: _Holding, judge: _Judge) -> list[RunUse]:
    mlflow_client = client(store)
    experiment = mlflow_client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    found: dict[str, RunUse] = {}
    for digest in sorted(holding.ids):
        # of every corpus of a run: the tag names the main one alone. MLflow holds 36 characters of a digest
        query, token = f"dataset.digest = '{digest[:36]}'", None
        while True:
            page = mlflow_client.search_runs(
                [experiment.experiment_id], query, max_results=_PAGE_RUNS, page_token=token
            )
            for run in page:
                if (use := _run_use(store, run, digest, judge)) is not None:
                    found[use.run_id] = use
            token = page.token
            if not token:
                break
    return sorted(found.values(), key=lambda use: (_FLOWS.index(use.flow), use.name, use.run_id))


def _run_use(store: Store, run: Run, digest: str, judge: _Judge) -> RunUse | None:
    tags = run.data.tags
    flow = tags.get("tokenmill.flow", "")
    if flow not in _FLOWS:
        return None
    run_dir = tags.get(RUN_DIR_TAG, "")
    record = _run_record(run_dir)
    corpus = tags.get("tokenmill.corpus", "")
    relation: Relation | Literal["published"]
    if flow == "pretrain":
        # where its folder is gone, MLflow alone says what it was trained on
        use = judge.heaviest(trained_corpora(record or {"corpus": corpus, "corpus_digest": digest}), "")
        if use is None:
            return None
        relation, corpus = use[0], use[1].corpus or corpus
    else:
        relation = "evaluated on" if flow == "evaluate" else "published"
    return RunUse(
        run.info.run_id,
        str(run.info.run_name),
        flow,
        str(run.info.status),
        corpus,
        run_page(store, run.info.experiment_id, run.info.run_id),
        relation,
        str(record.get("checkpoints") or Path(run_dir) / "checkpoints") if run_dir else "",
    )


def _run_record(run_dir: str) -> Mapping[str, Any]:
    """What a training run says of itself; nothing where its folder is gone."""
    file = Path(run_dir) / RUN_RECORD
    record: Mapping[str, Any] = json.loads(file.read_bytes()) if run_dir and file.is_file() else {}
    return record


def _models(store: Store, judge: _Judge) -> list[ModelUse]:
    found = []
    for model in model_references(store):
        tags = model.tags
        use = judge.heaviest(trained_corpora(tags), tags.get("tokenizer_sha256", ""))
        if use is not None:
            reference = f"{model.name}@{model.version}"
            found.append(
                ModelUse(
                    reference,
                    use[0],
                    use[1].corpus,
                    tags.get("mlflow_run_id", ""),
                    tags.get("checkpoint", ""),
                )
            )
    return sorted(found, key=lambda use: (_RELATIONS.index(use.relation), use.reference))
