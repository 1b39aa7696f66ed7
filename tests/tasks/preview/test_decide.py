"""The arithmetic of limits against the rules themselves: what they would decide, they decide."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.curation import screen
from tasks.document import Document, Drop, Rewrite
from tasks.filters.fineweb import FineWebQuality
from tasks.filters.gopher_quality import GopherQuality
from tasks.language import LanguageRule
from tasks.ports import InProcessMap
from tasks.preview.decide import decide, nearest, retention
from tasks.preview.run import Chain
from tasks.preview.score import checks
from tasks.recipes.curation import CURATION_RECIPES, CurationRecipe
from tasks.refresh import Refresh
from tasks.rule import Rule
from tasks.screen import DOCUMENTS_FILE
from tasks.store import Store
from tasks.tables import clean, document_of, read_rows
from tests.tasks.page_store import recipe
from tests.tasks.preview.sampled import previewed, write_pages

NUM_PAGES = 120
STRICT = {
    "quality_rules": tuple(
        {
            "gopher_quality": GopherQuality(min_words=150, max_bullet_line_fraction=0.2),
            "fineweb": FineWebQuality(min_line_punctuation_fraction=0.9, max_newlines_per_word=0.02),
        }.get(str(getattr(rule, "kind", "")), rule)
        for rule in recipe().quality_rules
    ),
    "language": LanguageRule(min_score=0.999),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("decide")
    write_pages(folder / "crawl", NUM_PAGES, num_files=2)
    return Store.open(folder / "s")


def source(store: Store) -> Path:
    return store.root.parent / "crawl"


@pytest.fixture(scope="module")
def chain(store: Store) -> Chain:
    return previewed(store, source(store)).chain


def ledger(store: Store, chosen: CurationRecipe, name: str) -> dict[str, int]:
    """What the real stages remove, by stage/reason."""
    plan = Refresh.plan(store, name, [str(source(store))], chosen)
    outputs = screen(plan, InProcessMap()).outputs
    counts: Counter[str] = Counter()
    for output in outputs.values():
        counts.update(output.report.removed)
    return dict(counts)


@pytest.mark.parametrize("changes", [{}, STRICT], ids=["the recipe's limits", "other limits"])
def test_what_is_removed_in_sequence_is_what_the_real_stages_remove(store: Store, changes: dict[str, object]) -> None:
    chosen = recipe().model_copy(update=changes)
    removed = previewed(store, source(store), chosen).chain.removed
    flat = {f"{stage}/{reason}": count for stage, reasons in removed.items() for reason, count in reasons.items()}
    expected = ledger(store, chosen, "strict" if changes else "plain")
    assert flat == expected and len(expected) >= 8
    assert sum(flat.values()) < NUM_PAGES


@pytest.mark.verify
@pytest.mark.parametrize("name", ["fineweb", "fineweb2", "dclm", "gopher"])
def test_real_pages_are_removed_as_by_the_real_stages(name: str, shared_data: Path, tmp_path: Path) -> None:
    store, chosen = Store.open(tmp_path / "s"), CURATION_RECIPES[name]()
    pages = shared_data / "web/pages.warc.gz"
    removed = previewed(store, pages, chosen).chain.removed
    flat = {f"{stage}/{reason}": count for stage, reasons in removed.items() for reason, count in reasons.items()}
    expected: Counter[str] = Counter()
    for output in screen(Refresh.plan(store, "web", [str(pages)], chosen), InProcessMap()).outputs.values():
        expected.update(output.report.removed)
    assert flat == dict(expected) and len(flat) >= 5


def texts_before(chain: Chain, index: int) -> list[Document]:
    """The documents as the rule at `index` reads them."""
    shards = chain.scores[0].scored.output.shards
    documents = [document_of(row) for shard in shards for row in read_rows(shard / DOCUMENTS_FILE)]
    for rule in chain.rules[1:index]:
        step = rule.build()
        rewritten = []
        for document in documents:
            verdict = step(document)
            text = clean(verdict.text) if isinstance(verdict, Rewrite) else document.text
            rewritten.append(replace(document, text=text))
        documents = rewritten
    return documents


def with_limit(rule: Rule, field: str, limit: float) -> Rule:
    return rule.model_copy(update={field: limit})


def keeps(rule: Rule, documents: list[Document]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    step = rule.build()
    return np.array([not isinstance(step(document), Drop) for document in documents])


@pytest.mark.parametrize(
    ("kind", "field", "thresholds"),
    [
        ("gopher_quality", "min_words", [1, 30, 50, 51, 100, 200, 400]),
        ("gopher_repetition", "max_duplicate_line_fraction", [0.01, 0.1, 0.3, 0.5, 1.0]),
        ("fineweb", "max_duplicate_line_char_fraction", [0.0, 0.01, 0.1, 0.5]),
    ],
)
def test_a_retention_curve_is_what_the_rule_does_at_each_limit(
    chain: Chain, kind: str, field: str, thresholds: list[float]
) -> None:
    index = chain.labels.index(kind)
    rule, scores = chain.rules[index], chain.scores[index]
    check = next(number for number, each in enumerate(scores.scored.checks) if each.threshold == field)
    curve = retention(chain.scores, chain.rules, index, check, np.array(thresholds, np.float64))

    documents = texts_before(chain, index)
    others = np.ones(len(documents), bool)
    for other, one in enumerate(chain.rules):
        if other not in (0, index):
            others &= keeps(one, texts_before(chain, other))
    others &= keeps(chain.rules[0], documents)
    alone_rule = rule.model_copy(
        update={each.threshold: -np.inf if each.drops == "below" else np.inf for each in scores.scored.checks}
    )
    for place, threshold in enumerate(thresholds):
        kept = keeps(with_limit(rule, field, threshold), documents) & others
        assert curve.chain[place] == kept.mean()
        passed = keeps(with_limit(alone_rule, field, threshold), documents)
        not_empty = np.array([bool(document.text.strip()) for document in documents])
        assert curve.alone[place] == (passed | ~not_empty).mean()
    assert len(set(curve.alone.tolist())) > 1


def test_counts_alone_and_by_nothing_else_are_those_of_the_rules(chain: Chain) -> None:
    kept = []
    for index, rule in enumerate(chain.rules):
        if isinstance(rule, LanguageRule):
            kept.append(keeps(rule, texts_before(chain, 1)))
        else:
            kept.append(keeps(rule, texts_before(chain, index)))
    kept_by_all = np.all(kept, axis=0)
    assert chain.decided.kept == kept_by_all.sum() > 0
    for index, outcome in enumerate(chain.decided.rules):
        by_others = np.all([each for other, each in enumerate(kept) if other != index], axis=0)
        assert outcome.removed.alone == (~kept[index]).sum()
        assert outcome.removed.only == (by_others & ~kept[index]).sum()
    in_sequence = sum(outcome.removed.in_sequence for outcome in chain.decided.rules)
    assert in_sequence == len(chain.ids) - chain.decided.kept


def test_the_nearest_documents_stand_on_the_right_side(chain: Chain) -> None:
    index = chain.labels.index("gopher_quality")
    scores, rule = chain.scores[index], chain.rules[index]
    words = scores.figures[:, 0]
    kept, dropped = nearest(scores, rule, 0, 3)
    limit = float(getattr(rule, checks(rule)[0].threshold))
    assert sorted(words[kept]) == sorted(words[words >= limit])[:3]
    assert sorted(words[dropped]) == sorted(words[words < limit])[-3:]


def test_on_the_limit_is_kept_and_one_step_over_it_is_not(chain: Chain) -> None:
    index = chain.labels.index("gopher_quality")
    words = int(np.median(chain.scores[index].figures[:, 0]))
    has = chain.scores[index].figures[:, 0] == words
    for limit, drops in ((words, False), (words + 1, True)):
        rules = list(chain.rules)
        rules[index] = with_limit(rules[index], "min_words", limit)
        outcome = decide(chain.scores, rules).rules[index]
        assert ((outcome.decided_by == 0) & has).any() == drops
