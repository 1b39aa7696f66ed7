"""Token shards: nothing lost, nothing added, and every token knows its document."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tasks.pack
from tasks.pack import (
    SPLITS,
    BucketReport,
    TokenShards,
    rows_sha256,
    token_dtype,
    tokenize_bucket,
    write_token_manifest,
)
from tasks.tokenizer import (
    END_OF_TEXT_ID,
    HeldOutSplit,
    TokenizerConfig,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)

SPLIT = HeldOutSplit(fraction=0.3)


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    save_tokenizer(train_tokenizer(["some words to merge, some more words"] * 3, TokenizerConfig(vocab_size=300)), file)
    return file


def write_bucket(file: Path, texts: dict[str, str]) -> Path:
    """Documents by id, in this order; each is its own cluster."""
    names = ("document_id", "cluster_id", "url", "source", "text")
    columns = [
        list(texts),
        list(texts),
        [f"https://{name}.example/" for name in texts],
        ["web"] * len(texts),
        [*texts.values()],
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(name, pa.string()) for name in names])
    pq.write_table(pa.table(dict(zip(names, columns, strict=True)), schema=schema), file)
    return file


def publish(folder: Path, buckets: list[dict[str, str]], tokenizer_file: Path) -> Path:
    reports = [
        tokenize_bucket(
            write_bucket(folder / "documents" / f"bucket-{number:03d}.parquet", texts),
            tokenizer_file,
            folder / "tokens",
            split=SPLIT,
        )
        for number, texts in enumerate(buckets)
    ]
    write_token_manifest(
        folder / "tokens", reports[::-1], tokenizer_file=tokenizer_file, corpus_digest="c0ffee", split=SPLIT
    )
    return folder / "tokens"


texts_by_id = st.dictionaries(
    st.text("0123456789abcdef", min_size=1, max_size=6), st.text(max_size=40), max_size=8
).map(lambda texts: dict(sorted(texts.items())))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(buckets=st.lists(texts_by_id, min_size=1, max_size=4))
def test_every_token_is_conserved_and_identified(tmp_path_factory, tokenizer_file, buckets):
    tokens_dir = publish(tmp_path_factory.mktemp("shards"), buckets, tokenizer_file)
    tokenizer = load_tokenizer(tokenizer_file)
    for split in SPLITS:
        shards = TokenShards(tokens_dir, split)
        expected = [
            (name, text)
            for texts in buckets
            for name, text in texts.items()
            if SPLIT.holds_out(name) == (split == "held_out")
        ]
        position = 0
        tokens: list[int] = []
        for number, (name, text) in enumerate(expected):
            document = shards.document(number)
            ids = [*tokenizer.encode(text).ids, END_OF_TEXT_ID]
            assert (document.document_id, document.start, document.num_tokens) == (name, position, len(ids))
            assert (document.url, document.source) == (f"https://{name}.example/", "web")
            assert document.num_bytes == len(text.encode())
            for place in (position, position + len(ids) - 1):
                assert shards.document_at(place) == document
            tokens += ids
            position += len(ids)
        assert shards.read(0, shards.num_tokens).tolist() == tokens
        assert (shards.num_tokens, shards.num_documents) == (len(tokens), len(expected))
        assert shards.document_ids() == [name for name, _ in expected]


BUCKETS = [
    {f"{bucket}{number:02d}": "words " * (number % 4) + name for number, name in enumerate("abcdefgh")}
    for bucket in "024"
]


def test_reads_cross_buckets(tmp_path: Path, tokenizer_file: Path):
    shards = TokenShards(publish(tmp_path, [BUCKETS[0], {}, BUCKETS[1], BUCKETS[2]], tokenizer_file))
    whole = shards.read(0, shards.num_tokens)
    for start in range(0, shards.num_tokens, 3):
        for stop in range(start, shards.num_tokens + 1, 7):
            assert np.array_equal(shards.read(start, stop), whole[start:stop])
    between = [document.document_id for document in shards.documents_between(0, shards.num_tokens)]
    assert between == shards.document_ids()
    boundary = shards.document(1).start
    assert [document.document_id for document in shards.documents_between(boundary - 1, boundary + 1)] == between[:2]
    assert [document.document_id for document in shards.documents_between(boundary, boundary + 1)] == between[1:2]


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (2, 1), (0, 10**6)])
def test_positions_outside_are_refused(tmp_path: Path, tokenizer_file: Path, start: int, stop: int):
    shards = TokenShards(publish(tmp_path, BUCKETS, tokenizer_file))
    with pytest.raises(ValueError, match="not within"):
        shards.read(start, stop)
    with pytest.raises(ValueError, match="not within"):
        list(shards.documents_between(start, stop))


def test_a_bucket_depends_on_nothing_else(tmp_path: Path, tokenizer_file: Path):
    first, second = (
        publish(tmp_path / "a", BUCKETS, tokenizer_file),
        publish(tmp_path / "b", BUCKETS[:1], tokenizer_file),
    )
    for split in SPLITS:
        for suffix in ("bin", "parquet"):
            name = f"bucket-000.{split}.{suffix}"
            assert (first / name).read_bytes() == (second / name).read_bytes()


def test_the_digest_follows_the_content(tmp_path: Path, tokenizer_file: Path):
    def digest(folder: str, buckets: list[dict[str, str]]) -> str:
        return TokenShards(publish(tmp_path / folder, buckets, tokenizer_file)).digest

    changed = [BUCKETS[0] | {"000": "other"}, *BUCKETS[1:]]
    assert digest("a", BUCKETS) == digest("b", BUCKETS)
    assert digest("c", changed) != digest("d", BUCKETS)


def test_the_digest_is_of_the_content_alone(tmp_path: Path, tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch):
    plain = publish(tmp_path, BUCKETS, tokenizer_file)
    reports = []
    for number in range(len(BUCKETS)):
        file = tmp_path / "documents" / f"bucket-{number:03d}.parquet"
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        reports.append(tokenize_bucket(file, tokenizer_file, tmp_path / "other", split=SPLIT, documents_sha256=sha256))
    monkeypatch.setattr(tasks.pack, "code_version", lambda *modules: "other code")
    write_token_manifest(
        tmp_path / "other", reports, tokenizer_file=tokenizer_file, corpus_digest="c0ffee", split=SPLIT
    )
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (plain, tmp_path / "other")]
    assert manifests[0]["digest"] == manifests[1]["digest"]
    assert manifests[0]["packing"] != manifests[1]["packing"]
    assert [bucket["documents_sha256"] for bucket in manifests[0]["buckets"]] == [""] * len(BUCKETS)
    assert [bucket["documents_sha256"] for bucket in manifests[1]["buckets"]] == [r.documents_sha256 for r in reports]


def test_documents_that_are_not_what_was_published_are_refused(tmp_path: Path, tokenizer_file: Path):
    file = write_bucket(tmp_path / "bucket-000.parquet", BUCKETS[0])
    with pytest.raises(ValueError, match=r"bucket-000\.parquet is damaged: it is not what its version's manifest"):
        tokenize_bucket(file, tokenizer_file, tmp_path / "tokens", split=SPLIT, documents_sha256="0" * 64)
    assert not (tmp_path / "tokens").exists()


def test_the_exceptions_in_a_bucket_are_reported(tmp_path: Path, tokenizer_file: Path):
    file = write_bucket(tmp_path / "bucket-000.parquet", BUCKETS[0])
    split = HeldOutSplit(fraction=0.3, always_held_out=("elsewhere", "003"), always_train=("001",))
    report = tokenize_bucket(file, tokenizer_file, tmp_path / "tokens", split=split)
    assert report.exceptions == ("001", "003")
    assert BucketReport.of(json.loads(json.dumps(asdict(report)))) == report


def test_files_are_plain_little_endian_ids(tmp_path: Path, tokenizer_file: Path):
    tokens_dir = publish(tmp_path, [{"a": "x", "b": "y"}, BUCKETS[0]], tokenizer_file)
    shards = TokenShards(tokens_dir)
    raw = b"".join((tokens_dir / f"bucket-{number:03d}.train.bin").read_bytes() for number in range(2))
    ids = [int.from_bytes(raw[place : place + 2], "little") for place in range(0, len(raw), 2)]
    assert ids == shards.read(0, shards.num_tokens).tolist()
    manifest = json.loads((tokens_dir / "manifest.json").read_text())
    assert (manifest["dtype"], manifest["corpus_digest"]) == ("<u2", "c0ffee")
    assert not list(tokens_dir.glob(".tmp-*"))


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_535, "<u2"), (65_536, "<u2"), (65_537, "<u4")])
def test_two_bytes_while_every_id_fits(vocab_size: int, dtype: str):
    assert token_dtype(vocab_size).str == dtype
    assert vocab_size - 1 <= np.iinfo(token_dtype(vocab_size)).max


@pytest.mark.parametrize("ids", [["b", "a"], ["a", "a"]])
def test_unsorted_documents_are_refused_and_leave_nothing(tmp_path: Path, tokenizer_file: Path, ids: list[str]):
    columns = dict.fromkeys(("document_id", "cluster_id", "url", "source", "text"), ids)
    pq.write_table(pa.table(columns), tmp_path / "bucket-000.parquet")
    with pytest.raises(ValueError, match="must be sorted by document_id"):
        tokenize_bucket(tmp_path / "bucket-000.parquet", tokenizer_file, tmp_path / "tokens", split=SPLIT)
    assert not list((tmp_path / "tokens").iterdir())


def test_damage_is_named(tmp_path: Path, tokenizer_file: Path):
    tokens_dir = publish(tmp_path, BUCKETS, tokenizer_file)
    TokenShards(tokens_dir).verify()
    file = tokens_dir / "bucket-001.train.bin"
    content = file.read_bytes()
    file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(ValueError, match=r"bucket-001\.train\.bin is not what the manifest says"):
        TokenShards(tokens_dir).verify()
    file.write_bytes(content[:-2])
    with pytest.raises(ValueError, match=r"bucket-001\.train\.bin holds .* damaged"):
        TokenShards(tokens_dir)
    file.unlink()
    with pytest.raises(ValueError, match="holds 0 bytes"):
        TokenShards(tokens_dir)


def test_unfinished_and_foreign_folders_are_refused(tmp_path: Path, tokenizer_file: Path):
    tokens_dir = publish(tmp_path, BUCKETS, tokenizer_file)
    manifest_file = tokens_dir / "manifest.json"
    manifest = json.loads(manifest_file.read_text())
    manifest_file.write_text(json.dumps(manifest | {"format_version": 99}))
    with pytest.raises(ValueError, match="format 99"):
        TokenShards(tokens_dir)
    manifest_file.unlink()
    with pytest.raises(ValueError, match="did not finish"):
        TokenShards(tokens_dir)


def test_one_report_per_bucket(tmp_path: Path, tokenizer_file: Path):
    report = tokenize_bucket(
        write_bucket(tmp_path / "bucket-000.parquet", BUCKETS[0]), tokenizer_file, tmp_path, split=SPLIT
    )
    for reports in ([], [report, report]):
        with pytest.raises(ValueError, match="one report per bucket"):
            write_token_manifest(tmp_path, reports, tokenizer_file=tokenizer_file, corpus_digest="", split=SPLIT)
    assert isinstance(report, BucketReport)
    assert sum(part.num_documents for part in report.splits.values()) == len(BUCKETS[0])


def test_the_rows_digest_needs_no_text(tmp_path: Path, tokenizer_file: Path):
    file = write_bucket(tmp_path / "bucket-000.parquet", BUCKETS[0])
    report = tokenize_bucket(file, tokenizer_file, tmp_path, split=SPLIT)
    table = pq.read_table(file)
    texts = [hashlib.sha256(text.encode()).hexdigest() for text in table["text"].to_pylist()]
    pq.write_table(table.drop_columns("text").append_column("text_sha256", pa.array(texts)), file)
    assert rows_sha256(file) == report.rows_sha256
