"""How well a network predicts text it has not been trained on, in a unit that does not depend on the tokenizer.

Bits per byte: the code length of the held-out texts under the model, in bits, divided by their length in bytes of
UTF-8. Each document is scored alone, cut into consecutive chunks of the context length. The first token is predicted
from end-of-text, the first of each further chunk from the last token of the chunk before, as in the rolling
log-likelihood of EleutherAI's lm-evaluation-harness (which gives the last chunk a full context, as we do not); the
end-of-text after the document is not scored.

Models with different tokenizers are compared on the same documents: `document_texts` gives the texts that token shards
hold, exactly, and `score_texts` scores a model on them with its own tokenizer.

Shapes: B chunks, T tokens.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.decoder import Decoder
from model.loss import IGNORED_TARGET
from tasks.pack import PackedDocument, Tokens, TokenShards
from tasks.tokenizer import END_OF_TEXT_ID

BATCH_TOKENS = 16_384

_Chunk = tuple[int, Tokens, Tokens]  # whose it is, inputs, targets


@dataclass(frozen=True, slots=True)
class BitsPerByte:
    """The result, with what it was computed from."""

    bits_per_byte: float
    loss_nats_per_token: float
    num_tokens: int  # scored; end-of-text is not
    num_bytes: int  # of the documents' texts as UTF-8
    num_documents: int


def choose_documents(shards: TokenShards, max_documents: int | None) -> list[int]:
    """Numbers of the documents to score: those with the smallest SHA-256 of their id; None takes all.

    A larger choice contains every smaller one.
    """
    ids = shards.document_ids()
    by_hash = sorted(range(len(ids)), key=lambda number: hashlib.sha256(ids[number].encode("utf-8")).digest())
    return sorted(by_hash[:max_documents])


def bits_per_byte(
    model: Decoder, shards: TokenShards, *, max_documents: int | None = None, batch_tokens: int = BATCH_TOKENS
) -> BitsPerByte:
    """Score held-out documents, at most `max_documents` of them. Leaves the model in the mode it was in.

    Raises ValueError where the documents hold no text.
    """
    numbers = choose_documents(shards, max_documents)
    return summed([score_documents(model, shards, numbers, batch_tokens=batch_tokens)])


@dataclass(frozen=True, slots=True)
class Score:
    """Sums over some documents, or of one; adds up over processes."""

    nats: float
    num_tokens: int
    num_bytes: int
    num_documents: int


def summed(scores: Sequence[Score]) -> BitsPerByte:
    """The result of several disjoint sets of documents together. Raises ValueError where they hold no text."""
    nats = math.fsum(score.nats for score in scores)
    num_tokens = sum(score.num_tokens for score in scores)
    num_bytes = sum(score.num_bytes for score in scores)
    if not num_tokens:
        raise ValueError("the held-out documents hold no text to evaluate on: raise held_out_fraction")
    return BitsPerByte(
        bits_per_byte=nats / math.log(2) / num_bytes,
        loss_nats_per_token=nats / num_tokens,
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        num_documents=sum(score.num_documents for score in scores),
    )


def score_documents(
    model: Decoder, shards: TokenShards, numbers: Sequence[int], *, batch_tokens: int = BATCH_TOKENS
) -> Score:
    """Total code length in nats, tokens and bytes of the documents with these numbers."""
    documents = [shards.document(number) for number in numbers]
    tokens = [_text_tokens(shards, document) for document in documents]
    return _score(model, tokens, sum(document.num_bytes for document in documents), batch_tokens)


def document_texts(shards: TokenShards, numbers: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """The texts of the documents with these numbers, from the tokens that `tokenizer` made of them.

    The tokenizers here are byte-level and normalise nothing, so these are the texts that were tokenised.
    """
    tokens = [_text_tokens(shards, shards.document(number)) for number in numbers]
    texts: list[str] = tokenizer.decode_batch([ids.tolist() for ids in tokens], skip_special_tokens=False)
    return texts


def score_texts(
    model: Decoder, tokenizer: Tokenizer, texts: Sequence[str], *, batch_tokens: int = BATCH_TOKENS
) -> Score:
    """`score_documents` for texts, which the model's own tokenizer encodes."""
    return _score(model, _encoded(tokenizer, texts), sum(len(text.encode("utf-8")) for text in texts), batch_tokens)


def score_each_text(
    model: Decoder, tokenizer: Tokenizer, texts: Sequence[str], *, batch_tokens: int = BATCH_TOKENS
) -> list[Score]:
    """`score_texts` of every text alone, in their order: what intervals are drawn from.

    Takes up to a quarter longer, because each position's loss is kept.
    """
    num_bytes = [len(text.encode("utf-8")) for text in texts]
    return _score_each(model, _encoded(tokenizer, texts), num_bytes, batch_tokens)


def _encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Tokens]:
    return [np.array(encoding.ids, dtype=np.int64) for encoding in tokenizer.encode_batch_fast(list(texts))]


def _text_tokens(shards: TokenShards, document: PackedDocument) -> Tokens:
    """The document's tokens without its end-of-text."""
    return shards.read(document.start, document.start + document.num_tokens - 1)


def _score(model: Decoder, documents: Sequence[Tokens], num_bytes: int, batch_tokens: int) -> Score:
    return Score(
        nats=math.fsum(float(nats) for _, nats in _losses(model, documents, batch_tokens, "sum")),
        num_tokens=sum(len(tokens) for tokens in documents),
        num_bytes=num_bytes,
        num_documents=len(documents),
    )


def _score_each(
    model: Decoder, documents: Sequence[Tokens], nums_bytes: Sequence[int], batch_tokens: int
) -> list[Score]:
    nats: list[list[float]] = [[] for _ in documents]
    for owners, losses_BT in _losses(model, documents, batch_tokens, "none"):
        for owner, loss in zip(owners, losses_BT.sum(dim=1, dtype=torch.float64).tolist(), strict=True):
            nats[owner].append(loss)
    return [
        Score(math.fsum(own), len(tokens), num_bytes, 1)
        for own, tokens, num_bytes in zip(nats, documents, nums_bytes, strict=True)
    ]


def _losses(
    model: Decoder, documents: Sequence[Tokens], batch_tokens: int, reduction: Literal["sum", "none"]
) -> Iterator[tuple[list[int], Tensor]]:
    """Of each batch of chunks whose they are, as places in `documents`, and their cross entropy in nats."""
    device = model.embedding.weight.device
    chunks = [
        (owner, *chunk) for owner, tokens in enumerate(documents) for chunk in _chunks(tokens, model.config.max_seq_len)
    ]
    # chunks of like length share a batch, so that little of it is padding; on the right, where causality hides it
    chunks.sort(key=lambda chunk: len(chunk[2]))
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for batch in _batches(chunks, batch_tokens):
            tokens_BT, targets_BT = _padded([(inputs, targets) for _, inputs, targets in batch])
            losses = model.loss(tokens_BT.to(device), targets_BT.to(device), reduction=reduction)
            yield [owner for owner, _, _ in batch], losses
    model.train(was_training)


def _chunks(text_tokens: Tokens, seq_len: int) -> Iterator[tuple[Tokens, Tokens]]:
    """Inputs and targets of each chunk; the inputs are the targets, one token earlier."""
    for start in range(0, len(text_tokens), seq_len):
        targets = text_tokens[start : start + seq_len]
        inputs = targets.copy()
        inputs[1:] = targets[:-1]
        inputs[0] = text_tokens[start - 1] if start else END_OF_TEXT_ID
        yield inputs, targets


def _batches(chunks: Sequence[_Chunk], batch_tokens: int) -> Iterator[Sequence[_Chunk]]:
    """Consecutive chunks whose padded size is at most `batch_tokens`, or single ones. Sorted by length on entry."""
    first = 0
    for end in range(1, len(chunks) + 1):
        if end == len(chunks) or (end + 1 - first) * len(chunks[end][2]) > batch_tokens:
            yield chunks[first:end]
            first = end


def _padded(chunks: Sequence[tuple[Tokens, Tokens]]) -> tuple[Tensor, Tensor]:
    width = max(len(targets) for _, targets in chunks)
    tokens_BT = torch.full((len(chunks), width), END_OF_TEXT_ID)
    targets_BT = torch.full((len(chunks), width), IGNORED_TARGET)
    for row, (inputs, targets) in enumerate(chunks):
        tokens_BT[row, : len(inputs)] = torch.from_numpy(inputs)
        targets_BT[row, : len(targets)] = torch.from_numpy(targets)
    return tokens_BT, targets_BT
