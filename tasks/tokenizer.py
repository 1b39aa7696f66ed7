"""Which documents are held out, and a byte-level BPE tokenizer trained on the others.

A document is held out by a hash of its near-duplicate **cluster**, so that copies of one text never stand on both
sides, and so that the same document is held out in every later version of the corpus. What is held out trains neither
the tokenizer nor the network, also where the tokenizer was trained on an earlier version: the hash is the same there.

Two kinds of documents that such a tokenizer was trained on may be held out later: one whose cluster has got another
survivor, and with it another hash; and the exception of a tiny corpus that has lost all others it had held out. Only
their counts of pairs of bytes are in the tokenizer; no network is ever trained on what it is measured on.

Every text survives `decode(encode(text))` unchanged: the alphabet holds all 256 bytes and nothing is normalised. A
document that spells out a special token (`<|end_of_text|>`) is encoded as those characters; only this program can
place the real one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tasks.atomic import write_file
from tasks.document import ShardReport
from tasks.rule import Configuration

TOKENIZER_FILE = "tokenizer.json"
PAD, END_OF_TEXT, UNKNOWN = "<|pad|>", "<|end_of_text|>", "<|unknown|>"
SPECIAL_TOKENS = (PAD, END_OF_TEXT, UNKNOWN)
PAD_ID, END_OF_TEXT_ID, UNKNOWN_ID = 0, 1, 2

_READ_ROWS = 512


class TokenizerConfig(Configuration):
    """How the tokenizer is trained."""

    vocab_size: int = Field(
        8192,
        ge=256 + len(SPECIAL_TOKENS),
        le=1_048_576,
        description="Entries including the 256 bytes and the 3 special tokens; a small corpus may yield fewer",
    )
    min_frequency: int = Field(2, ge=1, description="Times a pair must occur to be merged")
    max_train_bytes: int = Field(
        100_000_000, ge=1, description="Bytes of UTF-8 text to train on; documents are taken in the order of a hash"
    )
    seed: int = Field(0, ge=0, description="Changes which documents are taken where the corpus exceeds max_train_bytes")


class HeldOutSplit(Configuration):
    """Which clusters are held out: a share by hash, and the exceptions that keep both sides from being empty."""

    fraction: float = Field(gt=0, lt=1, description="Expected share of clusters that are held out")
    always_held_out: tuple[str, ...] = Field((), description="Clusters held out although their hash says otherwise")
    always_train: tuple[str, ...] = Field((), description="Clusters trained on although their hash says otherwise")

    @property
    def exceptions(self) -> tuple[str, ...]:
        """Clusters that stand on the other side than their hash says."""
        return self.always_held_out + self.always_train

    def holds_out(self, cluster_id: str) -> bool:
        if cluster_id in self.always_held_out:
            return True
        return cluster_id not in self.always_train and is_held_out(cluster_id, self.fraction)


def _cluster_hash(cluster_id: str) -> int:
    return int.from_bytes(hashlib.sha256(cluster_id.encode("utf-8")).digest()[:8], "big")


def is_held_out(cluster_id: str, fraction: float) -> bool:
    """Whether the first 64 bits of the SHA-256 of the cluster id, as a share of 2^64, lie below `fraction`."""
    return _cluster_hash(cluster_id) < fraction * 2.0**64


def split_documents(cluster_ids: Iterable[str], fraction: float) -> HeldOutSplit:
    """The split of a corpus, given the cluster id of each of its documents (in any order, repeated or not).

    If no cluster falls below `fraction`, the one with the smallest hash is held out; if all do, the one with the
    largest is trained on. Reads on only until both sides have one, and needs constant memory. Raises ValueError where
    there are fewer than two clusters.
    """
    low: tuple[int, str] | None = None
    high: tuple[int, str] | None = None
    for cluster_id in cluster_ids:
        key = (_cluster_hash(cluster_id), cluster_id)
        low = key if low is None else min(low, key)
        high = key if high is None else max(high, key)
        if is_held_out(low[1], fraction) and not is_held_out(high[1], fraction):
            return HeldOutSplit(fraction=fraction)
    if low is None or high is None or low == high:
        raise ValueError(
            "a corpus needs at least 2 documents that are not near-duplicates of each other, one to train on and one "
            f"to hold out; this one has {0 if low is None else 1}: add sources or relax the filters"
        )
    if is_held_out(high[1], fraction):
        return HeldOutSplit(fraction=fraction, always_train=(high[1],))
    return HeldOutSplit(fraction=fraction, always_held_out=(low[1],))


def bucket_split(documents_file: Path, split: HeldOutSplit) -> HeldOutSplit:
    """`split` with the exceptions alone that are in this bucket: in no other does it matter when they change."""
    if not split.exceptions:
        return split
    there = set(pq.read_table(documents_file, columns=["cluster_id"])["cluster_id"].to_pylist())
    return HeldOutSplit(
        fraction=split.fraction,
        always_held_out=tuple(cluster for cluster in split.always_held_out if cluster in there),
        always_train=tuple(cluster for cluster in split.always_train if cluster in there),
    )


def corpus_files(corpus_dir: Path) -> list[Path]:
    """The bucket files of a corpus version, in order. Raises ValueError where there are none."""
    files = sorted((corpus_dir / "documents").glob("*.parquet"))
    if not files:
        raise ValueError(f"{corpus_dir} holds no documents/*.parquet: it is no corpus version, or an unfinished one")
    return files


def corpus_cluster_ids(corpus_dir: Path) -> Iterator[str]:
    """The cluster id of every document of a corpus version."""
    for file in corpus_files(corpus_dir):
        yield from pq.read_table(file, columns=["cluster_id"])["cluster_id"].to_pylist()


def training_texts(corpus_dir: Path, split: HeldOutSplit, config: TokenizerConfig) -> Iterator[str]:
    """The texts the tokenizer is trained on: not held out, in total at most `max_train_bytes`, yielded in file order.

    Documents are chosen in the order of SHA-256 of seed and document id until the next one would exceed the limit
    (the first is always taken), so the choice does not depend on how the corpus is cut into files. Keeps two
    numbers a document in memory and reads the text column twice.
    """
    files = corpus_files(corpus_dir)
    keys: list[int] = []
    sizes: list[int] = []
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(_READ_ROWS, columns=["document_id", "cluster_id", "text"]):
            for (document_id, cluster_id), size in zip(_ids(batch), _text_bytes(batch), strict=True):
                if not split.holds_out(cluster_id):
                    keys.append(_order_key(document_id, config.seed))
                    sizes.append(size)
    last_key = _last_key_within(keys, sizes, config.max_train_bytes)
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(_READ_ROWS, columns=["document_id", "cluster_id", "text"]):
            for (document_id, cluster_id), text in zip(_ids(batch), batch["text"].to_pylist(), strict=True):
                if not split.holds_out(cluster_id) and _order_key(document_id, config.seed) <= last_key:
                    yield text


def _ids(batch: pa.RecordBatch) -> list[tuple[str, str]]:
    return list(zip(batch["document_id"].to_pylist(), batch["cluster_id"].to_pylist(), strict=True))


def _text_bytes(batch: pa.RecordBatch) -> list[int]:
    sizes: list[int] = pc.binary_length(batch["text"]).to_pylist()
    return sizes


def _order_key(document_id: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{document_id}".encode()).digest()[:8], "big")


def _last_key_within(keys: list[int], sizes: list[int], max_bytes: int) -> int:
    """The largest key that still fits when documents are taken by ascending key; the smallest key if none does."""
    if not keys:
        raise ValueError("no document is left to train the tokenizer on: all are held out; lower the held-out fraction")
    total_bytes = 0
    last_key = min(keys)
    for key, size in sorted(zip(keys, sizes, strict=True)):
        total_bytes += size
        if total_bytes > max_bytes:
            break
        last_key = key
    return last_key


def encodable(text: str) -> str:
    """The text with each lone surrogate, which UTF-8 cannot hold, replaced by U+FFFD; other text as it is."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """A byte-level BPE tokenizer (Radford et al. 2019, GPT-2's word pattern) with every digit a token of its own.

    Single digits cost a little length and save a small vocabulary from filling up with numbers (as in Llama 2). The
    special tokens have the ids 0, 1, 2. The result depends on the multiset of texts only, not on threads or order.
    Raises ValueError where there is no text.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    num_chars = 0

    def counted() -> Iterator[str]:
        nonlocal num_chars
        for text in texts:
            num_chars += len(text)
            yield encodable(text)

    tokenizer.train_from_iterator(counted(), trainer)
    if not num_chars:
        raise ValueError("no text to train the tokenizer on: every training document is empty, or there is none")
    return _checked(tokenizer, "the trained tokenizer")


@dataclass(frozen=True, slots=True)
class TokenizerTraining:
    """A corpus version to train a tokenizer on."""

    corpus_dir: Path
    split: HeldOutSplit
    config: TokenizerConfig


def tokenizer_shard(training: TokenizerTraining, directory: Path) -> ShardReport:
    """Train as the only shard of a stage; the tokenizer lies in TOKENIZER_FILE."""
    texts = training_texts(training.corpus_dir, training.split, training.config)
    save_tokenizer(train_tokenizer(texts, training.config), directory / TOKENIZER_FILE)
    return ShardReport(0, 0)


def save_tokenizer(tokenizer: Tokenizer, file: Path) -> str:
    """Write the tokenizer atomically in the format of Hugging Face's `tokenizer.json`. Returns its hash."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, tokenizer.to_str(pretty=True).encode("utf-8"))
    return tokenizer_hash(file)


def load_tokenizer(file: Path) -> Tokenizer:
    """Read what `save_tokenizer` wrote. Raises ValueError where the file is missing or no tokenizer of this kind."""
    if not file.is_file():
        raise ValueError(f"there is no tokenizer file {file}")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception for whatever is wrong with a file
        raise ValueError(f"{file} is no tokenizer file: {error}") from error
    return _checked(tokenizer, str(file))


def _checked(tokenizer: Tokenizer, where: str) -> Tokenizer:
    found = [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS]
    if found != [PAD_ID, END_OF_TEXT_ID, UNKNOWN_ID]:
        raise ValueError(f"{where}: the special tokens {SPECIAL_TOKENS} have the ids {found}, not [0, 1, 2]")
    # Not part of the file: without it a document could end itself by spelling out the end-of-text token.
    tokenizer.encode_special_tokens = True
    return tokenizer


def tokenizer_hash(file: Path) -> str:
    """SHA-256 of the tokenizer file, hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
