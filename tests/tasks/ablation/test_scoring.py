"""Scores of small models, page by page."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tasks.ablation.pages import HELD_OUT, evaluation_pages
from tasks.ablation.scoring import Examples, TrainedTwin, score_twins
from tasks.checkpoints import load_decoder
from tasks.evaluation.bits_per_byte import score_texts
from tasks.evaluation.harness import evaluate_tasks
from tasks.evaluation.loglikelihood import LocalScorer
from tasks.evaluation.task_pack import load_pack
from tasks.ports import InProcessMap
from tasks.store import Store
from tasks.tokenizer import load_tokenizer
from tests.infra.small_model import small_model
from tests.tasks.ablation.two_corpora import FRACTION, make_version, pages
from tests.tasks.token_corpora import CountingMap, IdleMap


def test_every_model_scores_every_page_with_both_of_its_texts(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    own = pages(range(30))
    other = {page: f"{text}\nOne more line." for page, text in own.items()}
    corpora = [make_version(store, name, texts) for name, texts in (("a", own), ("b", other))]
    chosen = evaluation_pages(store.work, corpora, [], InProcessMap(), held_out_fraction=FRACTION, max_pages=5)
    made = [small_model(tmp_path / "models", step=step, seed=step) for step in (1, 2)]
    tokenizer = made[0][1]
    twins = [TrainedTwin(run=f"run-{number}", checkpoint=str(folder)) for number, (folder, _) in enumerate(made)]
    scores = score_twins(store.work, twins, tokenizer, chosen, InProcessMap())
    assert [list(each) for each in scores] == [[HELD_OUT]] * 2
    assert scores[0][HELD_OUT].pages == scores[1][HELD_OUT].pages
    assert len(scores[0][HELD_OUT].pages) == 5
    for (folder, _), found in zip(made, scores, strict=True):
        model, _ = load_decoder(folder)
        for page, bits, num_bytes in zip(
            found[HELD_OUT].pages, found[HELD_OUT].values, found[HELD_OUT].sizes, strict=True
        ):
            expected = score_texts(model, load_tokenizer(tokenizer), [own[page], other[page]])
            assert bits == pytest.approx(expected.nats / math.log(2), rel=1e-5)
            assert num_bytes == expected.num_bytes
    assert scores[0][HELD_OUT].values.tolist() != scores[1][HELD_OUT].values.tolist()
    score_twins(store.work, twins, tokenizer, chosen, IdleMap())
    counting = CountingMap()
    score_twins(store.work, [*twins, TrainedTwin(run="run-2", checkpoint=str(made[0][0]))], tokenizer, chosen, counting)
    assert counting.ran == {"ablation_scores": 1}


def test_tasks_are_scored_as_an_evaluation_scores_them(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    corpus = make_version(store, "a", pages(range(30)))
    chosen = evaluation_pages(store.work, [corpus] * 2, [], InProcessMap(), held_out_fraction=FRACTION, max_pages=3)
    folder, tokenizer = small_model(tmp_path / "models")
    examples = Examples(("basics:agreement,last_words",), 12, store.work)
    twin = TrainedTwin(run="run", checkpoint=str(folder))
    scores = score_twins(store.work, [twin], tokenizer, chosen, InProcessMap(), examples=examples)[0]
    assert list(scores) == [HELD_OUT, "basics/agreement", "basics/last_words"]
    model, _ = load_decoder(folder)
    results = evaluate_tasks(
        LocalScorer(model), load_tokenizer(tokenizer), load_pack("basics", names=["agreement", "last_words"]), limit=12
    )
    for result in results:
        found = scores[f"basics/{result.task}"]
        assert (found.metric, found.higher_is_better, len(found.pages)) == ("acc", True, 12)
        assert found.values.sum() / found.sizes.sum() == pytest.approx(result.metrics["acc"])


def test_a_task_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the pack basics has no task 'agrement'"):
        _ = Examples(("basics:agrement",), 12, tmp_path).identity
