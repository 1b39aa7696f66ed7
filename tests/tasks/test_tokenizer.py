"""The held-out split and the tokenizer: stable, lossless, deterministic, and not to be fooled by documents."""

import hashlib
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from tasks.tokenizer import (
    END_OF_TEXT_ID,
    PAD_ID,
    SPECIAL_TOKENS,
    UNKNOWN_ID,
    HeldOutSplit,
    TokenizerConfig,
    bucket_split,
    corpus_cluster_ids,
    corpus_files,
    encodable,
    is_held_out,
    load_tokenizer,
    save_tokenizer,
    split_documents,
    tokenizer_hash,
    train_tokenizer,
    training_texts,
)

TEXTS = [
    f"The {word} of a page is {word}, and {number} words make {word} worth reading."
    for number, word in enumerate(["quality", "length", "language", "origin", "licence", "structure", "title"] * 6)
]
CONFIG = TokenizerConfig(vocab_size=400)
TOKENIZER = train_tokenizer(TEXTS, CONFIG)


def shares_by_definition(cluster_id: str) -> float:
    return int(hashlib.sha256(cluster_id.encode()).hexdigest()[:16], 16) / 16**16


class TestSplit:
    def test_rule_is_the_first_64_bits_of_sha256(self):
        for number in range(200):
            cluster_id = f"cluster-{number}"
            share = shares_by_definition(cluster_id)
            assert is_held_out(cluster_id, share + 1e-9)
            assert not is_held_out(cluster_id, share - 1e-9)

    def test_share_of_many_clusters_is_the_fraction(self):
        held_out = sum(is_held_out(str(number), 0.05) for number in range(20_000))
        assert held_out == pytest.approx(1000, abs=4 * (20_000 * 0.05 * 0.95) ** 0.5)

    @given(st.lists(st.text(max_size=8), min_size=2), st.floats(1e-6, 0.999))
    def test_both_sides_have_something_and_order_does_not_matter(self, cluster_ids, fraction):
        if len(set(cluster_ids)) < 2:
            with pytest.raises(ValueError, match="at least 2"):
                split_documents(cluster_ids, fraction)
            return
        split = split_documents(cluster_ids, fraction)
        sides = {split.holds_out(cluster_id) for cluster_id in cluster_ids}
        assert sides == {True, False}
        assert split_documents(sorted(cluster_ids, reverse=True), fraction) == split

    def test_exceptions_are_the_smallest_and_the_largest_hash(self):
        ids = [f"c{number}" for number in range(9)]
        by_hash = sorted(ids, key=shares_by_definition)
        assert split_documents(ids, 1e-9) == HeldOutSplit(fraction=1e-9, always_held_out=(by_hash[0],))
        assert split_documents(ids, 1 - 1e-9) == HeldOutSplit(fraction=1 - 1e-9, always_train=(by_hash[-1],))
        assert split_documents(ids, 0.5) == HeldOutSplit(fraction=0.5)

    def test_reads_on_until_both_sides_have_one(self):
        one, other = sorted((f"c{number}" for number in range(9)), key=shares_by_definition)[:9:8]
        ids = iter([one, other, "unread"])
        assert split_documents(ids, 0.5) == HeldOutSplit(fraction=0.5)
        assert list(ids) == ["unread"]

    def test_a_bucket_knows_its_own_exceptions_alone(self, tmp_path: Path):
        corpus = write_corpus(tmp_path / "corpus", [[("d1", "a", "x"), ("d2", "b", "y")], [("d3", "c", "z")], []])
        split = HeldOutSplit(fraction=0.5, always_held_out=("c", "gone"), always_train=("b",))
        assert [bucket_split(file, split) for file in corpus_files(corpus)] == [
            HeldOutSplit(fraction=0.5, always_train=("b",)),
            HeldOutSplit(fraction=0.5, always_held_out=("c",)),
            HeldOutSplit(fraction=0.5),
        ]

    @pytest.mark.parametrize(("ids", "found"), [([], "0"), (["one"], "1"), (["one", "one"], "1")])
    def test_too_small_a_corpus_is_refused(self, ids, found):
        with pytest.raises(ValueError, match=f"at least 2 .* has {found}"):
            split_documents(ids, 0.1)


class TestRoundTrip:
    @settings(max_examples=300)
    @given(st.text(st.characters(exclude_categories=())))
    def test_every_text_survives(self, text):
        expected = encodable(text)
        ids = TOKENIZER.encode(expected).ids
        assert TOKENIZER.decode(ids, skip_special_tokens=False) == expected
        assert not {PAD_ID, END_OF_TEXT_ID, UNKNOWN_ID} & set(ids)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "\0",
            "a\0b",
            "👩‍👩‍👧‍👦 family",
            "e\u0301 é ﬁ",
            "  two  spaces\n\n\ttabs ",
            "\r\n",
            "123 456,789",
            "العربية שלום",
            "\ufeffbom",
        ],
    )
    def test_hard_cases_survive(self, text):
        assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text

    def test_lone_surrogates_are_replaced_and_nothing_else(self):
        assert encodable("a\ud800b\udfffc") == "a\ufffdb\ufffdc"
        assert encodable("😀 untouched\0") == "😀 untouched\0"

    @given(st.text(), st.sampled_from(SPECIAL_TOKENS), st.text())
    def test_a_spelt_out_special_token_stays_text(self, before, special, after):
        text = encodable(before) + special + encodable(after)
        ids = TOKENIZER.encode(text).ids
        assert min(ids) > UNKNOWN_ID
        assert TOKENIZER.decode(ids, skip_special_tokens=True) == text


class TestTraining:
    def test_special_tokens_and_all_bytes_come_first(self):
        assert [TOKENIZER.id_to_token(number) for number in range(3)] == list(SPECIAL_TOKENS)
        assert train_tokenizer(["x"], TokenizerConfig(vocab_size=259)).get_vocab_size() == 259
        assert 259 < TOKENIZER.get_vocab_size() <= 400

    def test_digits_stand_alone(self):
        tokenizer = train_tokenizer(["2024 2024 2024 " * 50], TokenizerConfig(vocab_size=400))
        assert [tokenizer.decode([number]) for number in tokenizer.encode("2024").ids] == ["2", "0", "2", "4"]

    def test_order_of_texts_does_not_matter(self):
        shuffled = random.Random(7).sample(TEXTS, len(TEXTS))
        assert train_tokenizer(shuffled, CONFIG).to_str() == TOKENIZER.to_str()

    def test_threads_do_not_matter(self, tmp_path: Path):
        code = (
            "import sys; from pathlib import Path\n"
            "from tasks.tokenizer import TokenizerConfig, save_tokenizer, train_tokenizer\n"
            "texts = [f'{n * 7919 % 613} shards of {n % 17} bands, {n % 5} signatures' for n in range(3000)]\n"
            "print(save_tokenizer(train_tokenizer(texts, TokenizerConfig(vocab_size=600)), Path(sys.argv[1])))\n"
        )
        hashes = set()
        for name, variables in {
            "one": {"RAYON_NUM_THREADS": "1"},
            "four": {"RAYON_NUM_THREADS": "4"},
            "off": {"TOKENIZERS_PARALLELISM": "false"},
        }.items():
            command = [sys.executable, "-c", code, str(tmp_path / f"{name}.json")]
            done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True)
            hashes.add(done.stdout.strip())
            assert done.stdout.strip() == hashlib.sha256((tmp_path / f"{name}.json").read_bytes()).hexdigest()
        assert len(hashes) == 1

    @pytest.mark.parametrize("texts", [[], ["", ""]])
    def test_no_text_is_refused(self, texts):
        with pytest.raises(ValueError, match="no text"):
            train_tokenizer(texts, CONFIG)


class TestFile:
    def test_loaded_is_saved(self, tmp_path: Path):
        file = tmp_path / "deep" / "tokenizer.json"
        assert save_tokenizer(TOKENIZER, file) == tokenizer_hash(file)
        loaded = load_tokenizer(file)
        assert loaded.to_str() == TOKENIZER.to_str()
        assert min(loaded.encode("<|end_of_text|>").ids) > UNKNOWN_ID
        assert [path.name for path in file.parent.iterdir()] == ["tokenizer.json"]

    def test_what_is_no_tokenizer_is_refused(self, tmp_path: Path):
        with pytest.raises(ValueError, match="no tokenizer file"):
            load_tokenizer(tmp_path / "missing.json")
        broken = tmp_path / "broken.json"
        broken.write_text(TOKENIZER.to_str()[:500])
        with pytest.raises(ValueError, match=r"broken\.json is no tokenizer file"):
            load_tokenizer(broken)
        foreign = tmp_path / "foreign.json"
        foreign.write_text(Tokenizer(models.BPE()).to_str())
        with pytest.raises(ValueError, match="special tokens"):
            load_tokenizer(foreign)


def write_corpus(folder: Path, buckets: list[list[tuple[str, str, str]]]) -> Path:
    """A corpus version's documents: per bucket rows of document id, cluster id and text."""
    (folder / "documents").mkdir(parents=True)
    for number, rows in enumerate(buckets):
        columns = {
            name: [row[place] for row in rows] for place, name in enumerate(("document_id", "cluster_id", "text"))
        }
        schema = pa.schema([(name, pa.string()) for name in columns])
        pq.write_table(pa.table(columns, schema=schema), folder / "documents" / f"bucket-{number:03d}.parquet")
    return folder


ROWS = [(f"d{number:03d}", f"k{number // 2}", f"text {number} " + "é" * (number % 5)) for number in range(60)]


class TestTrainingTexts:
    def test_held_out_clusters_are_left_out(self, tmp_path: Path):
        corpus = write_corpus(tmp_path / "corpus", [ROWS[:30], [], ROWS[30:]])
        split = split_documents(corpus_cluster_ids(corpus), 0.3)
        held_out = {text for _, cluster_id, text in ROWS if split.holds_out(cluster_id)}
        texts = list(training_texts(corpus, split, TokenizerConfig()))
        assert 0 < len(held_out) < len(ROWS)
        assert texts == [text for _, _, text in ROWS if text not in held_out]

    def test_limit_takes_a_prefix_of_the_hash_order_however_the_corpus_is_cut(self, tmp_path: Path):
        split = HeldOutSplit(fraction=1e-12)
        order = sorted(ROWS, key=lambda row: hashlib.sha256(f"3/{row[0]}".encode()).digest()[:8])
        sizes = [len(text.encode()) for _, _, text in order]
        limit = sum(sizes[:10])
        one = write_corpus(tmp_path / "one", [ROWS])
        three = write_corpus(tmp_path / "three", [ROWS[:5], ROWS[5:31], ROWS[31:]])
        for max_bytes, taken in ((limit, 10), (limit - 1, 9), (limit + sizes[10] - 1, 10), (1, 1)):
            config = TokenizerConfig(max_train_bytes=max_bytes, seed=3)
            expected = sorted(text for _, _, text in order[:taken])
            assert sorted(training_texts(one, split, config)) == expected
            assert sorted(training_texts(three, split, config)) == expected

    def test_another_seed_takes_other_documents(self, tmp_path: Path):
        corpus = write_corpus(tmp_path / "corpus", [ROWS])
        taken = {
            tuple(training_texts(corpus, HeldOutSplit(fraction=0.1), TokenizerConfig(max_train_bytes=100, seed=seed)))
            for seed in (0, 1)
        }
        assert len(taken) == 2

    def test_no_documents_is_refused(self, tmp_path: Path):
        with pytest.raises(ValueError, match="no corpus version"):
            list(training_texts(tmp_path, HeldOutSplit(fraction=0.1), CONFIG))
        corpus = write_corpus(tmp_path / "corpus", [ROWS[:2]])
        with pytest.raises(ValueError, match="all are held out"):
            list(training_texts(corpus, HeldOutSplit(fraction=0.1, always_held_out=("k0",)), CONFIG))


def test_real_text_round_trips():
    data = Path(__file__).resolve().parents[2] / "../shared/data/text/udhr.zip"
    if not data.is_file():
        pytest.skip("shared data is absent: ../shared/data/text/udhr.zip")
    with zipfile.ZipFile(data) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith("-UTF8"))[:60]
        texts = [archive.read(name).decode("utf-8", "replace") for name in names]
    assert texts
    for encoding, text in zip(TOKENIZER.encode_batch(texts), texts, strict=True):
        assert TOKENIZER.decode(encoding.ids, skip_special_tokens=False) == text
