"""What a training says of its corpora is read back, from its record and from tags, whoever wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.trained_corpora import TrainedCorpus, mixture_tags, trained_corpora

MAIN = TrainedCorpus(corpus="docs@3", digest="d" * 64, tokens="/store/tokens/docs")
MORE = [{"corpus": "news@1", "corpus_digest": "n" * 64, "weight": 0.5, "max_epochs": 4.0, "max_tokens": 0}]
FACTS = {"corpus": "docs@3", "corpus_digest": "d" * 64, "tokens": "/store/tokens/docs"}
TOKENS = Path("/store/tokens/news")


def news(tokens: str) -> TrainedCorpus:
    return TrainedCorpus(corpus="news@1", digest="n" * 64, tokens=tokens, is_main=False)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (FACTS, (MAIN,)),  # of one corpus, and of every program before there were mixtures
        ({}, (TrainedCorpus(),)),
        (FACTS | {"more_corpora": MORE, "more_tokens": [str(TOKENS)]}, (MAIN, news(str(TOKENS)))),
        (FACTS | {"more_corpora": MORE}, (MAIN, news(""))),  # killed before they were tokenised
        (FACTS | mixture_tags(MORE, [TOKENS], {"docs@3": 2, "news@1": 1}), (MAIN, news(str(TOKENS)))),
    ],
    ids=["one", "nothing", "record", "begun", "tags"],
)
def test_read_back(facts: dict[str, Any], expected: tuple[TrainedCorpus, ...]) -> None:
    assert trained_corpora(facts) == expected


def test_a_folder_of_shards_is_known_by_its_name_wherever_the_store_is_now() -> None:
    assert MAIN.tokens_name == "docs" and TrainedCorpus().tokens_name == ""
