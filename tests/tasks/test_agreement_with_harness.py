"""Our side of lm-evaluation-harness and its own Hugging Face backend, on the exported model: example for example.

`HFLM` loads the export with transformers, knows nothing of us, makes tokens with the exported tokenizer, truncates and
batches in its own way. Both get the same requests from the harness.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from model.config import DecoderConfig, RopeScaling
from tasks.checkpoints import load_decoder
from tasks.evaluation.harness import HarnessModel, run_task
from tasks.evaluation.loglikelihood import LocalScorer
from tasks.evaluation.task_pack import PackTask, load_pack
from tasks.evaluation.task_result import TaskResult
from tasks.export.export import export_model
from tasks.tokenizer import load_tokenizer
from tests.data.prose import prose
from tests.model.reference_networks import random_decoder
from tests.tasks.export.exportable import checkpoint

TOLERANCE_NATS, RELATIVE_TOLERANCE = 1e-3, 1e-5
"""Of a log-likelihood, which is a sum over up to 512 tokens, in fp32 and in batches of another shape."""

NUM_EXAMPLES = 50  # of each task
GROUPED = DecoderConfig(
    vocab_size=320, d_model=64, num_layers=3, num_heads=8, num_kv_heads=2, d_ff=128, max_seq_len=512, rope_theta=5_000.0
)
SHAPES = {
    "grouped queries": GROUPED,
    "QK-norm": dataclasses.replace(GROUPED, qk_norm=True, tie_embeddings=False),
    "stretched positions": dataclasses.replace(
        GROUPED, rope_scaling=RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=64)
    ),
}

Answers = list[tuple[tuple[Any, ...], Any]]


def recording(lm: Any, method: str) -> Answers:
    """What this backend answers from now on, beside what it was asked."""
    answers: Answers = []
    answer: Callable[..., list[Any]] = getattr(lm, method)

    def recorded(requests: list[Any], **options: Any) -> list[Any]:
        found = answer(requests, **options)
        answers.extend((request.args, each) for request, each in zip(requests, found, strict=True))
        return found

    setattr(lm, method, recorded)
    return answers


def perplexity_task(folder: Path) -> PackTask:
    """Texts of our own, some of which are longer than the context."""
    folder.mkdir()
    rows = [{"text": prose(number, num_sentences=1 + number % 12)} for number in range(30)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "prose.jsonl").write_bytes(content)
    entry = {
        "name": "prose",
        "kind": "perplexity",
        "files": [{"path": "prose.jsonl", "sha256": hashlib.sha256(content).hexdigest()}],
        "main_metric": "bits_per_byte",
    }
    (folder / "pack.yaml").write_text(yaml.safe_dump({"name": "own", "version": "1", "tasks": [entry]}))
    (task,) = load_pack(folder).tasks
    return task


def both_results(ours: Any, theirs: Any, task: PackTask) -> tuple[TaskResult, TaskResult]:
    examples = task.choose(NUM_EXAMPLES)
    return run_task(ours, task, examples), run_task(theirs, task, examples)


@pytest.mark.verify
@pytest.mark.parametrize("name", list(SHAPES))
def test_every_example_is_scored_as_the_harness_own_backend_scores_it(
    tmp_path: Path, shared_data: Path, name: str
) -> None:
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(1)
    folder, tokenizer_file = checkpoint(tmp_path, random_decoder(SHAPES[name]))
    exported = export_model(folder, tokenizer_file, tmp_path / "exported", reference="some@1")
    model, _ = load_decoder(folder)
    ours = HarnessModel(LocalScorer(model), load_tokenizer(tokenizer_file), progress=None)
    options = {"pretrained": str(exported.path), "device": "cpu", "dtype": "float32", "batch_size": 16}
    theirs = HFLM(**options)
    our_answers, their_answers = recording(ours, "loglikelihood"), recording(theirs, "loglikelihood")

    kinds = {}
    num_truncated = 0
    for task in load_pack("academic", shared_data / "eval").tasks:
        us, them = both_results(ours, theirs, task)
        kinds[task.kind] = us.num_examples
        num_truncated += us.num_truncated
        assert us.num_examples == NUM_EXAMPLES
        for own, other in zip(us.examples, them.examples, strict=True):
            assert own.id == other.id
            for metric in ("acc", "acc_norm"):
                assert own.values.get(metric) == other.values.get(metric), f"{task.name}, {own.id}: {metric}"
        assert {metric: us.metrics[metric] for metric in us.metrics if metric.startswith("acc")} == {
            metric: them.metrics[metric] for metric in them.metrics if metric.startswith("acc")
        }
    assert kinds.keys() == {"multiple_choice", "last_word", "minimal_pairs"}
    assert num_truncated > 10  # contexts that are cut on the left are among them

    assert len(our_answers) == len(their_answers) > 700
    largest = 0.0
    for (asked, (nats, greedy)), (their_asked, (their_nats, their_greedy)) in zip(
        our_answers, their_answers, strict=True
    ):
        assert asked == their_asked
        assert nats == pytest.approx(their_nats, abs=TOLERANCE_NATS, rel=RELATIVE_TOLERANCE), asked
        assert greedy == their_greedy, asked
        largest = max(largest, abs(nats - their_nats))
    print(
        f"\n{name}: {len(our_answers)} log-likelihoods, apart by at most {largest:.2g} nats, {num_truncated} truncated"
    )

    # the harness places the first token of a whole text itself, says the export's card
    rolling = HFLM(**options, add_bos_token=False)
    our_answers, their_answers = (recording(each, "loglikelihood_rolling") for each in (ours, rolling))
    us, them = both_results(ours, rolling, perplexity_task(tmp_path / "own"))
    lengths = [len(ours.tok_encode(text)) for ((text,), _) in our_answers]
    assert min(lengths) < GROUPED.max_seq_len and max(lengths) > 2 * GROUPED.max_seq_len
    for (_, nats), (_, their_nats) in zip(our_answers, their_answers, strict=True):
        assert nats == pytest.approx(their_nats, abs=TOLERANCE_NATS, rel=RELATIVE_TOLERANCE)
    assert us.metrics == pytest.approx(dict(them.metrics), rel=RELATIVE_TOLERANCE)
