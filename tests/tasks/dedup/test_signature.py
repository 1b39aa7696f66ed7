from __future__ import annotations

import hashlib
import math
import random
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.dedup import signature
from tasks.dedup.signature import (
    SHINGLES_PER_CHUNK,
    MinHash,
    WordHashes,
    bands,
    estimated_jaccard,
    mix,
    shingles,
    signatures,
    words,
)

FINEWEB = MinHash()
SMALL = MinHash(num_bands=3, rows_per_band=2, shingle_words=2, seed=7)

any_text = st.text(st.characters(exclude_categories=()), max_size=80)
wordy_text = st.lists(st.sampled_from(["a", "b", "7", "Ünder", "漢字", "-", "don't"]), max_size=30).map(" ".join)


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("   \n\t ", []),
        ("?!… — 😀 $", []),
        ("Don't  stop,\nNOW_ok", ["don", "t", "stop", "now", "ok"]),
        ("don\u2019t", ["don", "t"]),
        ("3.5 % of 1,234", ["3", "5", "of", "1", "234"]),
        ("caf\u00e9 cafe\u0301 CAFE\u0301", ["cafe", "cafe", "cafe"]),
        ("Stra\u00dfe STRASSE", ["strasse", "strasse"]),
        ("\uff26\uff35\uff2c\uff2c \ufb01le", ["full", "file"]),
        ("hy\u00adphen \ufeffbom \u200fdirection", ["hyphen", "bom", "direction"]),
        ("漢字かな mixed", ["漢", "字", "か", "な", "mixed"]),
        ("हिन्दी भाषा", ["हिनदी", "भाषा"]),
        ("مرحبا بالعالم", ["مرحبا", "بالعالم"]),
        ("\ud800 lone surrogate", ["lone", "surrogate"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(any_text)
def test_words_are_a_fixed_point(text: str) -> None:
    assert words(" ".join(words(text))) == words(text)


@given(st.text(max_size=80), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]))
def test_words_do_not_depend_on_the_unicode_form(text: str, form: str) -> None:
    assert words(unicodedata.normalize(form, text)) == words(text)


@given(st.text(max_size=40), st.sampled_from([" ", "\n", ", ", " - ", "\u2026"]), st.text(max_size=40))
def test_any_separator_is_a_space(left: str, separator: str, right: str) -> None:
    assert words(left + separator + right) == words(left) + words(right)


# --- agreement with a slow reference: Python integers and loops, nothing shared with the implementation ---------------

MASK = (1 << 64) - 1


def naive_mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


@given(st.integers(0, MASK))
def test_mix(value: int) -> None:
    assert mix(np.array([value], dtype=np.uint64)).tolist() == [naive_mix(value)]


def naive_combine(values: list[int]) -> int:
    combined = len(values)
    for value in values:
        combined = ((combined + value) * 0xD1342543DE82EF95) & MASK
    return naive_mix(combined)


def naive_hash(text: str, use: bytes) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, person=use).digest()
    return int.from_bytes(digest, "little")


def naive_words(text: str) -> list[str]:
    spaced = ""
    for character in unicodedata.normalize("NFKD", text):
        for folded in character.casefold():
            category = unicodedata.category(folded)
            name = unicodedata.name(folded, "")
            if category in ("Mn", "Me", "Cf"):
                continue
            if category.startswith("L") and re.match("CJK UNIFIED|HIRAGANA|KATAKANA|THAI|LAO|KHMER|MYANMAR", name):
                spaced += " " + folded + " "
            elif category[0] in "LN" or category == "Mc":
                spaced += folded
            else:
                spaced += " "
    return spaced.split()


def naive_shingles(text: str, config: MinHash) -> set[int]:
    found = naive_words(text)
    if not found:
        return {naive_hash(text, b"wordless text")}
    width = min(config.shingle_words, len(found))
    runs = {tuple(found[start : start + width]) for start in range(len(found) - width + 1)}
    return {naive_combine([naive_hash(word, b"word") for word in run]) for run in runs}


def naive_signature(text: str, config: MinHash) -> list[int]:
    start = naive_mix(config.seed)
    signature = []
    for index in range(config.num_hashes):
        factor = naive_mix((start + 0x9E3779B97F4A7C15 * (2 * index + 1)) & MASK) | 1
        summand = naive_mix((start + 0x9E3779B97F4A7C15 * (2 * index + 2)) & MASK)
        signature.append(min((factor * shingle + summand) & MASK for shingle in naive_shingles(text, config)))
    return signature


def naive_bands(signature: list[int], config: MinHash) -> list[int]:
    rows = config.rows_per_band
    return [naive_combine(signature[start : start + rows]) for start in range(0, len(signature), rows)]


@settings(max_examples=150)
@given(
    st.lists(st.one_of(wordy_text, st.text(st.characters(max_codepoint=0x9FFF), max_size=60)), max_size=4),
    st.sampled_from([SMALL, FINEWEB, MinHash(num_bands=1, rows_per_band=1, shingle_words=1, seed=0)]),
)
def test_equals_the_slow_reference_bit_for_bit(texts: list[str], config: MinHash) -> None:
    expected = [naive_signature(text, config) for text in texts]
    found = signatures(texts, config)
    assert found.dtype == np.uint64
    assert found.shape == (len(texts), config.num_hashes)
    assert found.tolist() == expected
    assert bands(found, config).tolist() == [naive_bands(signature, config) for signature in expected]


def test_same_numbers_everywhere() -> None:
    """Signatures are compared across runs and machines: a change of these numbers is a change of the format."""
    found = signatures(["The quick brown fox jumps over the lazy dog", "", "42"], FINEWEB)
    assert found[:, 0].tolist() == GOLDEN_FIRST_HASH
    assert bands(found, FINEWEB)[:, 13].tolist() == GOLDEN_LAST_BAND


GOLDEN_FIRST_HASH = [7390473345743162276, 4498616871359169186, 7133783693851452800]
GOLDEN_LAST_BAND = [4227281222087362002, 13043561290500444327, 2923129623214728754]


# --- shapes of input --------------------------------------------------------------------------------------------------


@given(st.lists(any_text, max_size=6))
def test_a_signature_does_not_depend_on_its_neighbours(texts: list[str]) -> None:
    together = signatures(texts, SMALL)
    for row, text in enumerate(texts):
        assert signatures([text], SMALL)[0].tolist() == together[row].tolist()


def test_chunk_borders_do_not_show() -> None:
    rng = random.Random(3)
    long = [" ".join(rng.choices("abcdefgh", k=k)) for k in (SHINGLES_PER_CHUNK - 1, 1, SHINGLES_PER_CHUNK * 2, 3, 700)]
    together = signatures(long, FINEWEB)
    apart = np.concatenate([signatures([text], FINEWEB) for text in long])
    assert np.array_equal(together, apart)


def test_word_hashes_may_be_shared_and_do_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"the word{number} is word{number % 7} of the many" for number in range(50)]
    expected = signatures(texts, SMALL)
    for limit in (1, 10, 1000):
        monkeypatch.setattr(signature, "WORDS_AT_HAND", limit)
        shared = WordHashes()
        for start in range(0, 50, 13):
            assert np.array_equal(signatures(texts[start : start + 13], SMALL, shared), expected[start : start + 13])
            assert len(shared) <= limit
    assert len(shared) == 54  # all of them
    assert np.array_equal(signatures(["x" * 65], SMALL, shared), signatures(["x" * 65], SMALL))
    assert "x" * 65 not in shared and "word49" in shared


def test_no_texts() -> None:
    assert signatures([], FINEWEB).shape == (0, 112)
    assert bands(signatures([], FINEWEB), FINEWEB).shape == (0, 14)


def test_megabytes_of_one_word() -> None:
    word, other = "x" * 1_000_000, "x" * 999_999
    found = signatures([word, other, word + " ", "x " * 500_000], FINEWEB)
    assert np.array_equal(found[0], found[2])
    assert not (found[0] == found[1]).any()
    assert np.array_equal(found[3], signatures(["x x x x x"], FINEWEB)[0])  # a set: one shingle, however often


@pytest.mark.parametrize(("num_words", "num_shingles"), [(1, 1), (4, 1), (5, 1), (6, 2), (7, 3)])
def test_short_texts_have_one_shingle_of_all_words(num_words: int, num_shingles: int) -> None:
    text = " ".join("abcdefg"[:num_words])
    assert len(shingles(text, FINEWEB)) == num_shingles
    if 1 < num_words <= 5:
        assert not (signatures([text], FINEWEB) == signatures([text[:-2]], FINEWEB)).any()


def test_texts_without_words_resemble_only_themselves() -> None:
    found = signatures(["", " ", "!!!", "😀", "😁", "!!!"], FINEWEB)
    equal = [(i, j) for i in range(6) for j in range(i) if (found[i] == found[j]).any()]
    assert equal == [(5, 2)]


def test_order_of_words_and_seed_matter() -> None:
    found = signatures(["one two three four five", "five four three two one"], FINEWEB)
    assert not (found[0] == found[1]).any()
    other_seed = signatures(["one two three four five"], MinHash(seed=2))
    assert not (found[0] == other_seed[0]).any()


def test_texts_that_differ_in_numbers_only_stay_apart() -> None:
    def table(seed: int) -> str:
        rng = random.Random(seed)
        rows = (f"| Station {n} | {rng.uniform(-9, 30):.1f} C | {rng.randrange(2000)} mm |" for n in range(40))
        return "Weather by station\n" + "\n".join(rows)

    first, second = table(1), table(2)
    assert re.sub(r"\d+(\.\d+)?", "0", first.replace("-", "")) == re.sub(r"\d+(\.\d+)?", "0", second.replace("-", ""))
    found = signatures([first, second], FINEWEB)
    assert estimated_jaccard(found[:1], found[1:])[0] < 0.2
    keys = bands(found, FINEWEB)
    assert not (keys[0] == keys[1]).any()


# --- statistics -------------------------------------------------------------------------------------------------------


def pair(rng: random.Random, numerator: int, denominator: int) -> tuple[str, str]:
    """Two texts of equal length without repeated words whose shingle sets have exactly this Jaccard similarity."""
    scale = 2 * math.ceil(90 / denominator)  # the union has at least 180 shingles
    num_common, num_shingles = numerator * scale, (numerator + denominator) * scale // 2
    fresh = iter(rng.sample(range(10**9), 2 * (num_shingles + 4)))
    common = [f"w{next(fresh)}" for _ in range(num_common + 4)]
    left, right = ([*common, *(f"w{next(fresh)}" for _ in range(num_shingles - num_common))] for _ in range(2))
    return " ".join(left), " ".join(right)


@pytest.mark.parametrize(
    ("numerator", "denominator"), [(1, 2), (3, 5), (7, 10), (3, 4), (4, 5), (17, 20), (9, 10), (1, 1)]
)
def test_match_probability_follows_the_s_curve(numerator: int, denominator: int) -> None:
    num_pairs, similarity = 200, numerator / denominator
    rng = random.Random(numerator * 1000 + denominator)
    pairs = [pair(rng, numerator, denominator) for _ in range(num_pairs)]
    for left, right in pairs[:5]:
        left_set, right_set = naive_shingles(left, FINEWEB), naive_shingles(right, FINEWEB)
        assert len(left_set & right_set) * denominator == len(left_set | right_set) * numerator
    lefts, rights = (signatures(side, FINEWEB) for side in zip(*pairs, strict=True))

    matched = (bands(lefts, FINEWEB) == bands(rights, FINEWEB)).any(axis=1).mean()
    expected = 1 - (1 - similarity**8) ** 14
    assert FINEWEB.match_probability(similarity) == pytest.approx(expected)
    assert abs(matched - expected) <= 3 * math.sqrt(expected * (1 - expected) / num_pairs)

    mean_estimate = estimated_jaccard(lefts, rights).mean()
    assert abs(mean_estimate - similarity) <= 3 * math.sqrt(similarity * (1 - similarity) / 112 / num_pairs)


def test_permutations_of_small_sets_are_independent() -> None:
    """Two texts with two shingles of three in common: the estimate's variance is the binomial one, not larger.

    Permutations that agree on which of a few shingles is smallest would inflate it.
    """
    rng = random.Random(5)
    lefts, rights = [], []
    for _ in range(400):
        names = [f"w{number}" for number in rng.sample(range(10**9), 8)]
        lefts.append(" ".join(names[:7]))  # 3 shingles
        rights.append(" ".join(names[:6]))  # 2 of them
    estimates = estimated_jaccard(signatures(lefts, FINEWEB), signatures(rights, FINEWEB))
    variance = (2 / 3) * (1 / 3) / 112
    assert abs(estimates.mean() - 2 / 3) <= 3 * math.sqrt(variance / 400)
    # the sample variance of 400 normal values has a relative standard deviation of sqrt(2 / 399) = 7 %
    assert 0.75 <= estimates.var(ddof=1) / variance <= 1.25


# --- configuration ----------------------------------------------------------------------------------------------------


def test_defaults_are_finewebs() -> None:
    assert FINEWEB.model_dump() == {"num_bands": 14, "rows_per_band": 8, "shingle_words": 5, "seed": 1}
    assert [round(100 * FINEWEB.match_probability(s), 1) for s in (0.7, 0.75, 0.8, 0.85)] == [56.5, 77.2, 92.4, 98.8]


@pytest.mark.parametrize(
    ("field", "lowest", "highest"),
    [("num_bands", 1, 128), ("rows_per_band", 1, 64), ("shingle_words", 1, 64), ("seed", 0, 2**32 - 1)],
)
def test_bounds(field: str, lowest: int, highest: int) -> None:
    for accepted in (lowest, highest):
        config = MinHash(**{field: accepted})
        assert signatures(["a b c"], config).shape == (1, config.num_hashes)
    for refused in (lowest - 1, highest + 1):
        with pytest.raises(ValidationError, match=field):
            MinHash(**{field: refused})
