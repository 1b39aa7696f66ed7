"""Bits per byte against a loop that could not be simpler, and against models whose answer is known."""

import math
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from model.config import DecoderConfig
from model.decoder import Decoder
from tasks.evaluation.bits_per_byte import (
    bits_per_byte,
    choose_documents,
    document_texts,
    score_documents,
    score_each_text,
    score_texts,
    summed,
)
from tasks.pack import TokenShards, tokenize_bucket, write_token_manifest
from tasks.tokenizer import (
    END_OF_TEXT_ID,
    HeldOutSplit,
    TokenizerConfig,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)

SEQ_LEN = 8
TEXTS = [
    "",
    "é",
    "short",
    "seven b",
    "eight by",
    "nine byte",
    "a text of a few chunks, with 3 digits: 123",
    "the end\n" * 9,
    "<|end_of_text|> spelled out, \x00 and 漢字 🙂",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus in which all of `TEXTS` are held out, and one more document is not."""
    folder = tmp_path_factory.mktemp("corpus")
    ids = [f"{number:02d}" for number in range(len(TEXTS) + 1)]
    split = HeldOutSplit(fraction=1 - 1e-9, always_train=(ids[-1],))
    save_tokenizer(train_tokenizer(TEXTS * 3, TokenizerConfig(vocab_size=280)), folder / "tokenizer.json")
    columns = dict.fromkeys(("document_id", "cluster_id", "url", "source"), ids) | {"text": [*TEXTS, "trained on"]}
    pq.write_table(pa.table(columns), folder / "bucket-000.parquet")
    report = tokenize_bucket(folder / "bucket-000.parquet", folder / "tokenizer.json", folder / "tokens", split=split)
    write_token_manifest(
        folder / "tokens", [report], tokenizer_file=folder / "tokenizer.json", corpus_digest="", split=split
    )
    return folder


@pytest.fixture(scope="module")
def shards(folder: Path) -> TokenShards:
    return TokenShards(folder / "tokens", "held_out")


def decoder() -> Decoder:
    torch.manual_seed(0)
    shape = DecoderConfig(
        vocab_size=320,
        d_model=16,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        d_ff=24,
        max_seq_len=SEQ_LEN,
        init_std=0.3,
    )
    return Decoder(shape)


def naive_nats(model: Decoder, token_ids: list[int]) -> float:
    """Each token from those before it in its chunk, one by one, in float64."""
    nats = 0.0
    previous = END_OF_TEXT_ID
    for first in range(0, len(token_ids), SEQ_LEN):
        context = [previous]
        for token in token_ids[first : first + SEQ_LEN]:
            with torch.no_grad():
                logits = model(torch.tensor([context]))[0, -1].double()
            nats -= float(logits.log_softmax(-1)[token])
            context.append(token)
        previous = context[-1]
    return nats


@pytest.mark.parametrize("batch_tokens", [1, 50, 100_000])
def test_agrees_with_a_loop_over_documents(folder: Path, shards: TokenShards, batch_tokens: int):
    model, tokenizer = decoder(), load_tokenizer(folder / "tokenizer.json")
    expected = sum(naive_nats(model, tokenizer.encode(text).ids) for text in TEXTS)
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    result = bits_per_byte(model, shards, batch_tokens=batch_tokens)
    assert result.bits_per_byte == pytest.approx(expected / math.log(2) / num_bytes, rel=1e-5)
    assert (result.num_bytes, result.num_documents) == (num_bytes, len(TEXTS))
    assert result.num_tokens == sum(len(tokenizer.encode(text).ids) for text in TEXTS)
    assert result.loss_nats_per_token == pytest.approx(expected / result.num_tokens, rel=1e-5)


def test_the_uniform_model_has_the_exact_value(shards: TokenShards):
    model = decoder()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    result = bits_per_byte(model, shards)
    assert result.bits_per_byte == pytest.approx(math.log2(320) * result.num_tokens / result.num_bytes, rel=1e-6)


def test_scores_of_parts_add_up(shards: TokenShards):
    model, numbers = decoder(), choose_documents(shards, None)
    parts = [score_documents(model, shards, numbers[rank::3]) for rank in range(3)]
    whole = bits_per_byte(model, shards)
    assert summed(parts).bits_per_byte == pytest.approx(whole.bits_per_byte, rel=1e-6)
    assert summed(parts).num_tokens == whole.num_tokens


def test_choices_are_nested_and_stable(shards: TokenShards):
    choices = [choose_documents(shards, number) for number in range(1, len(TEXTS) + 1)]
    assert [len(choice) for choice in choices] == list(range(1, len(TEXTS) + 1))
    for smaller, larger in pairwise(choices):
        assert set(smaller) < set(larger)
        assert larger == sorted(larger)
    assert choose_documents(shards, None) == choose_documents(shards, 10**6) == list(range(len(TEXTS)))


def test_texts_come_back_exactly_and_score_as_their_tokens_do(folder: Path, shards: TokenShards):
    numbers, tokenizer = choose_documents(shards, None), load_tokenizer(folder / "tokenizer.json")
    texts = document_texts(shards, numbers, tokenizer)
    assert texts == TEXTS
    assert score_texts(decoder(), tokenizer, texts) == score_documents(decoder(), shards, numbers)
    some = document_texts(shards, numbers[1:4], tokenizer)
    assert score_texts(decoder(), tokenizer, some) == score_documents(decoder(), shards, numbers[1:4])


def test_another_tokenizer_is_held_to_the_same_bytes(folder: Path, shards: TokenShards):
    """Bits of the uniform model: its own tokens, whatever cut them, each costs log2 of the vocabulary."""
    other = train_tokenizer(["nothing like the texts"], TokenizerConfig(vocab_size=259))
    texts = document_texts(shards, choose_documents(shards, None), load_tokenizer(folder / "tokenizer.json"))
    model = decoder()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    result = summed([score_texts(model, other, texts)])
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    assert result.num_bytes == num_bytes == result.num_tokens  # 259 entries: bytes and special tokens, no merges
    assert result.bits_per_byte == pytest.approx(math.log2(320), rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(shards: TokenShards, training: bool):
    model = decoder().train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bits_per_byte(model, shards, max_documents=7)
    assert model.training is training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_text_is_refused(shards: TokenShards):
    with pytest.raises(ValueError, match="no text to evaluate on"):
        summed([score_documents(decoder(), shards, [0])])


@pytest.mark.parametrize("batch_tokens", [1, 50, 100_000])
def test_each_text_has_its_own_code_length(folder: Path, batch_tokens: int):
    model, tokenizer = decoder(), load_tokenizer(folder / "tokenizer.json")
    each = score_each_text(model, tokenizer, TEXTS, batch_tokens=batch_tokens)
    for score, text in zip(each, TEXTS, strict=True):
        assert score.nats == pytest.approx(naive_nats(model, tokenizer.encode(text).ids), rel=1e-5)
        assert (score.num_bytes, score.num_documents) == (len(text.encode()), 1)
    assert summed(each).bits_per_byte == pytest.approx(summed([score_texts(model, tokenizer, TEXTS)]).bits_per_byte)
    assert score_each_text(model, tokenizer, []) == []
