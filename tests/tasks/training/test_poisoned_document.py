"""A document of garbage among real pages: the run notices the step, and its record names the document first."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tasks.checkpoints import read_state
from tasks.loader import TokenLoader
from tasks.metrics_file import read_metrics
from tasks.mixture import MixtureSource
from tasks.pack import TokenShards
from tasks.recipes.pretraining import PretrainRecipe
from tasks.spike_file import read_spikes
from tasks.training import TrainJob, train
from tests.tasks.training.training_runs import RECIPE, pack

POISON_ID, POISON_URL = "060-poison", "http://poison.example/page"
NUM_PAGES, PAGE_CHARS, POISON_CHARS = 120, 300, 60
SEQ_LEN, BATCH_SEQUENCES, NUM_STEPS = 64, 4, 60
CHECKPOINT_STEPS, MIN_HISTORY_STEPS = 10, 16


@pytest.fixture(scope="module")
def corpus(page_texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginnings of real pages; in their midst one of characters drawn at random, some windows long."""
    generator = random.Random(0)
    noise = "".join(chr(generator.randrange(0x4E00, 0x9FA5)) for _ in range(POISON_CHARS))
    documents = [
        (f"{number:03d}", f"http://page-{number}.example/", "web", text[:PAGE_CHARS])
        for number, text in enumerate([text for text in page_texts if _is_plain(text)][:NUM_PAGES])
    ]
    ids, urls, sources, texts = zip(*sorted([*documents, (POISON_ID, POISON_URL, "dump", noise)]), strict=True)
    columns = {"document_id": ids, "cluster_id": ids, "url": urls, "source": sources, "text": texts}
    return pack(
        tmp_path_factory.mktemp("poisoned") / "corpus", {name: list(values) for name, values in columns.items()}
    )


def _is_plain(text: str) -> bool:
    """Long enough, and of one script: 40 steps teach a network nothing of a second one."""
    return len(text) > PAGE_CHARS and text[:PAGE_CHARS].isascii()


@pytest.fixture(scope="module")
def seed_and_step(corpus: Path) -> tuple[int, int]:
    """An order of the data in which the document comes when the run has a past, and when."""
    shards = TokenShards(corpus / "tokens")
    for seed in range(2000):
        loader = TokenLoader(shards, seq_len=SEQ_LEN, global_batch_sequences=BATCH_SEQUENCES, seed=seed)
        batches = ((step, _num_poisoned_tokens(loader, step)) for step in range(NUM_STEPS))
        step, num_tokens = next(((step, tokens) for step, tokens in batches if tokens), (0, 0))
        if step > 2 * MIN_HISTORY_STEPS and num_tokens > BATCH_SEQUENCES * SEQ_LEN // 3:
            return seed, step + 1
    raise AssertionError("no seed puts much of the document into a late batch")


def _num_poisoned_tokens(loader: TokenLoader, step: int) -> int:
    spans = [span for each in loader.documents(step) for span in each.spans]
    return sum(span.stop - span.start for span in spans if span.document_id == POISON_ID)


def job(corpus: Path, run_dir: Path, seed: int, policy: str) -> TrainJob:
    fields: dict[str, Any] = {
        "seq_len": SEQ_LEN,
        "global_batch_tokens": SEQ_LEN * BATCH_SEQUENCES,
        "total_tokens": NUM_STEPS * SEQ_LEN * BATCH_SEQUENCES,
        "checkpoint_every_steps": CHECKPOINT_STEPS,
        "evaluate_every_steps": CHECKPOINT_STEPS,
        "seed": seed,
        "spikes": {"policy": policy, "window_steps": 32, "min_history_steps": MIN_HISTORY_STEPS},
    }
    return TrainJob(
        corpora=(MixtureSource(corpus="pages@1", tokens_dir=corpus / "tokens"),),
        tokenizer_file=corpus / "tokenizer.json",
        run_dir=run_dir,
        recipe=PretrainRecipe.model_validate(RECIPE.model_dump() | fields),
        device="cpu",
    )


@pytest.mark.parametrize(
    "policy",
    [pytest.param("alert", marks=pytest.mark.verify), "skip", pytest.param("rollback", marks=pytest.mark.verify)],
)
def test_the_record_names_the_document_first(corpus: Path, seed_and_step: tuple[int, int], tmp_path: Path, policy: str):
    seed, step = seed_and_step
    result = train(job(corpus, tmp_path, seed, policy))
    assert result.complete
    record, *_ = read_spikes(tmp_path / "spikes.jsonl")
    assert record.step == step
    suspect = record.documents[0]
    assert (suspect.document_id, suspect.url, suspect.source, suspect.corpus) == (
        POISON_ID,
        POISON_URL,
        "dump",
        "pages@1",
    )
    assert suspect.mean_loss is not None and record.usual_loss is not None
    assert suspect.mean_loss > record.usual_loss + 1
    assert record.num_documents == len(record.documents) > BATCH_SEQUENCES
    assert record.step_taken == (policy == "alert")
    rows = read_metrics(tmp_path / "metrics.jsonl")
    taken = [row["batch"] + 1 for row in rows if row["taken"]]
    assert (step in taken) == (policy == "alert")
    if policy == "rollback":
        ((first, last), *_) = read_state(result.checkpoint).skipped
        assert (first, last) == (CHECKPOINT_STEPS * ((step - 1) // CHECKPOINT_STEPS), step - 1)
