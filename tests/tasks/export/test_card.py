"""The README of an export: true of this export, and safe to show."""

from __future__ import annotations

import dataclasses

import pytest

from model.config import DecoderConfig
from tasks.checkpoints import CheckpointState
from tasks.evaluation.bits_per_byte import BitsPerByte
from tasks.export.card import export_card
from tasks.export.proof import Proof
from tasks.export.weights import WrittenWeights
from tasks.recipes.pretraining import smoke
from tests.tasks.export.exportable import SHAPE

PROOF = Proof(
    texts=21,
    texts_from="8 held-out documents of web@3",
    text_bytes=12_345,
    tokens=4_321,
    tensors=20,
    positions=777,
    longest_sequence_tokens=96,
    max_logit_difference=1.5e-6,
    max_relative_difference=2.5e-6,
    tolerance=1e-3,
    same_most_likely_fraction=1.0,
    generated_tokens=96,
    loss_nats_per_token=3.25,
    exported_loss_nats_per_token=3.250001,
    transformers="5.0",
    torch="2.0",
)


def card(
    shape: DecoderConfig = SHAPE, *, reference: str = "some@3", num_tokens: int = 300, description: str = ""
) -> str:
    state = CheckpointState(
        step=2,
        num_steps=2,
        tokens_seen=2048,
        loss=2.5,
        held_out=BitsPerByte(1.5, 2.25, 100, 300, 4),
        decoder=shape.to_dict(),
        recipe=smoke(),
        tokenizer_sha256="f" * 64,
        corpus_digest="c" * 64,
        tokens_digests=("d" * 64,),
    )
    return export_card(reference, state, WrittenWeights(9_040, 36_160, ("float32",)), num_tokens, PROOF, description)


def test_it_says_what_it_is_and_how_it_was_proven() -> None:
    text = card()
    assert text.startswith("---\nlibrary_name: transformers\n")
    for said in ("# some@3", "`LlamaForCausalLM`", "9,040 parameters in float32", "up to 96 tokens", "12,345 bytes"):
        assert said in text
    assert "777 positions" in text and "2.5e-06 of their spread (refused above 0.001)" in text
    assert "`Qwen3ForCausalLM`" in card(dataclasses.replace(SHAPE, qk_norm=True))


def test_padding_is_spoken_of_where_there_is_some() -> None:
    assert "the last 20 are padding" in card()
    assert "300 tokens, the network 320 rows" in card()
    assert "padding" not in card(num_tokens=320)


@pytest.mark.parametrize("reference", ["a<script>@1", "x\n## Limits", "[a](http://b)"])
def test_a_name_makes_no_mark_up(reference: str) -> None:
    title = next(line for line in card(reference=reference).splitlines() if line.startswith("# "))
    assert "<" not in title and "[" not in title.replace("\\[", "")
    assert "\n## Limits" not in card(reference=reference)


def test_the_card_of_the_version_stands_below_with_its_code_as_it_was() -> None:
    description = "# some@3\n\nFirst.\n\n## Use\n\n```python\n# a comment\n```\n\n## Limits\n\nMany."
    text = card(description=description)
    assert text.count("# some@3") == 1
    assert text.endswith("## The model\n\nFirst.\n\n### Use\n\n```python\n# a comment\n```\n\n### Limits\n\nMany.\n")
    assert "## The model" not in card()
