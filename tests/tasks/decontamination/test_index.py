"""What is found, exactly: on the limits of words, over line breaks and case, and as a plain search finds it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.decontamination.index import MAX_EXAMPLES, ExampleIndex
from tasks.decontamination.sought import Sought
from tasks.decontamination.words import word_spans, words_of
from tests.data.prose import prose

WORDS = [f"w{number}" for number in range(40)]


def text_of(*numbers: int) -> str:
    return " ".join(WORDS[number] for number in numbers)


def index_of(*passages: str, **options: int) -> ExampleIndex:
    return ExampleIndex([Sought("own/task", f"{n}", (passage,)) for n, passage in enumerate(passages)], **options)


def stretches(index: ExampleIndex, text: str) -> list[tuple[int, str]]:
    return [(found.example, text[found.start_chars : found.end_chars]) for found in index.find(text)]


@pytest.mark.parametrize(("num_words", "is_found"), [(12, False), (13, True), (14, True), (20, True)])
def test_of_a_long_passage_13_words_are_found_and_12_are_not(num_words: int, is_found: bool) -> None:
    index = index_of(text_of(*range(20)))
    for start in range(20 - num_words + 1):
        part = text_of(*range(start, start + num_words))
        assert stretches(index, f"Before {part} after") == ([(0, part)] if is_found else [])


@pytest.mark.parametrize(("num_words", "is_searched"), [(0, False), (7, False), (8, True), (12, True), (13, True)])
def test_a_short_passage_is_looked_for_as_a_whole_from_8_words_on(num_words: int, is_searched: bool) -> None:
    passage = text_of(*range(num_words))
    index = index_of(passage)
    assert index.is_searched.tolist() == [is_searched]
    assert stretches(index, f"x {passage} y") == ([(0, passage)] if is_searched else [])
    assert stretches(index, f"x {text_of(*range(1, num_words))} y") == []


def test_limits_can_be_others() -> None:
    index = index_of(text_of(*range(6)), text_of(10, 11, 12), text_of(20, 21), ngram_words=5, min_words=3)
    text = f"{text_of(1, 2, 3, 4, 5)} {text_of(10, 11, 12)} {text_of(20, 21)}"
    assert stretches(index, text) == [(0, text_of(1, 2, 3, 4, 5)), (1, text_of(10, 11, 12))]
    assert index.is_searched.tolist() == [True, True, False]


def test_spans_are_exact_over_line_breaks_punctuation_and_case() -> None:
    index = index_of(prose(1, 2))
    planted = prose(1, 2).upper().replace(" ", "\n", 3).replace(" ", "  – ", 5).rstrip(".")
    text = f"{prose(2, 3)}\n\n“{planted}”!\n{prose(3, 3)}"
    assert stretches(index, text) == [(0, planted)]


def test_ngrams_of_one_example_that_touch_are_one_stretch_and_apart_two() -> None:
    first, second = text_of(*range(13)), text_of(*range(13, 26))
    index = ExampleIndex([Sought("own/task", "both", (first, second))])
    assert stretches(index, f"{first} {second}") == [(0, f"{first} {second}")]
    assert stretches(index, f"{second} x {first}") == [(0, second), (0, first)]


def test_every_example_that_has_it_is_named() -> None:
    shared = text_of(*range(13))
    index = index_of(f"{shared} one", f"two {shared}", text_of(*range(20, 33)))
    found = index.find(shared)
    assert [each.example for each in found] == [0, 1]
    assert found[0].ngrams == found[1].ngrams and index.owners(found[0].ngrams[0]) == [0, 1]


@pytest.mark.parametrize(("number", "is_told"), [(MAX_EXAMPLES, True), (MAX_EXAMPLES + 1, False)])
def test_what_more_than_100_examples_of_a_pack_are_asked_with_is_none_of_them(number: int, is_told: bool) -> None:
    asked_with = text_of(*range(13))
    sought = [Sought("own/task", f"{n}", (f"{asked_with} n{n}",)) for n in range(number)]
    other = Sought("other/task", "0", (text_of(*range(13)),))
    assert bool(ExampleIndex(sought).find(asked_with)) is is_told
    assert bool(ExampleIndex([*sought, other]).find(asked_with)) is is_told
    both = [*sought[: number // 2], *(Sought("other/task", each.example_id, each.passages) for each in sought[:50])]
    assert len(ExampleIndex(both).find(asked_with)) == len(both)  # each pack is counted by itself


def test_examples_of_equal_words_are_one_of_those_that_share_an_ngram() -> None:
    asked_with = text_of(*range(13))
    equal = [Sought("own/task", f"{n}", (f"{asked_with} one{'.' * n}",)) for n in range(MAX_EXAMPLES + 1)]
    different = [Sought("own/task", f"x{n}", (f"{asked_with} n{n}",)) for n in range(MAX_EXAMPLES)]
    for sought in (equal, equal + different[1:]):
        assert len(ExampleIndex(sought).find(asked_with)) == len(sought)
    assert not ExampleIndex(equal + different).find(asked_with)


def test_how_many_are_looked_for_is_known_by_pack() -> None:
    sought = [Sought(task, "0", (passage,)) for task in ("own/a", "own/b", "mine.jsonl") for passage in ("x", prose(1))]
    assert ExampleIndex(sought[:-1]).num_searched() == {"own": (4, 2), "mine.jsonl": (1, 0)}


def test_nothing_to_look_for_finds_nothing() -> None:
    for index in (ExampleIndex([]), index_of("", "too short")):
        assert (index.num_ngrams, index.find(prose(1)), index.find("")) == (0, (), ())


def plain_search(passages: Sequence[str], text: str, ngram_words: int, min_words: int) -> set[tuple[int, int, int]]:
    """Example, and first and last character of each stretch: by comparing words with words."""
    words, spans = words_of(text), word_spans(text)
    found = set()
    for example, passage in enumerate(passages):
        of_passage = words_of(passage)
        length = min(len(of_passage), ngram_words)
        if length < min_words:
            continue
        ngrams = {tuple(of_passage[start : start + length]) for start in range(len(of_passage) - length + 1)}
        covered: list[list[int]] = []
        for start in range(len(words) - length + 1):
            if tuple(words[start : start + length]) in ngrams:
                if covered and start <= covered[-1][1]:
                    covered[-1][1] = start + length
                else:
                    covered.append([start, start + length])
        found |= {(example, spans[start][0], spans[end - 1][1]) for start, end in covered}
    return found


short_texts = st.lists(st.sampled_from(["a", "b", "C", "d."]), max_size=24).map(" ".join)


@given(st.lists(short_texts, max_size=5), short_texts)
def test_it_finds_what_a_plain_search_finds(passages: list[str], text: str) -> None:
    index = index_of(*passages, ngram_words=4, min_words=2)
    found = [(each.example, each.start_chars, each.end_chars) for each in index.find(text)]
    assert len(found) == len(set(found))
    assert set(found) == plain_search(passages, text, 4, 2)


@given(st.lists(short_texts, min_size=1, max_size=5), short_texts, st.randoms(use_true_random=False))
def test_the_order_of_examples_makes_no_difference(passages: list[str], text: str, chance: random.Random) -> None:
    sought = [Sought("own/task", f"{n}", (passage,)) for n, passage in enumerate(passages)]
    shuffled = chance.sample(sought, len(sought))

    def named(examples: list[Sought]) -> set[tuple[str, int, int, int]]:
        index = ExampleIndex(examples, ngram_words=4, min_words=2)
        return {
            (index.examples[each.example][1], each.start_chars, each.end_chars, len(each.ngrams))
            for each in index.find(text)
        }

    assert named(sought) == named(shuffled)


def test_words_that_no_example_has_are_no_word_of_any() -> None:
    passage = text_of(*range(13))
    assert stretches(index_of(passage), passage.replace("w6", "other")) == []


def test_an_equal_hash_of_other_words_is_no_match() -> None:
    index = index_of(text_of(*range(13)), text_of(*range(20, 33)))
    index._word_hashes[:] = 1  # now all runs of so many words have one hash
    index._hashes[:] = index._hashes[0]
    index._filter[:] = True
    for numbers in (range(1, 14), range(21, 34)):
        assert stretches(index, text_of(*numbers)) == []
