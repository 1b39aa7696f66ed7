"""The proof finds what is wrong, by a wide margin to what rounding does."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.config import DecoderConfig, preset
from model.decoder import Decoder
from tasks.export import proof as module
from tasks.export.export import export_model
from tasks.export.passages import PASSAGES
from tasks.export.proof import TOLERANCE, NotTheSame, Proof, expected, prove, require_transformers
from tasks.tokenizer import TOKENIZER_FILE, load_tokenizer
from tests.model.reference_networks import random_decoder
from tests.tasks.export.exportable import SCALINGS, SHAPE, checkpoint


class Exported:
    """An export whose files can be changed and proven again."""

    def __init__(self, folder: Path, model: Decoder) -> None:
        self.checkpoint, tokenizer = checkpoint(folder, model)
        self.tokenizer = load_tokenizer(tokenizer)
        self.path = folder / "out"
        self.proof = export_model(self.checkpoint, tokenizer, self.path, reference="a model").proof
        self.expected = expected(self.checkpoint, self.tokenizer, PASSAGES)

    def change(self, file: str, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
        values = json.loads((self.path / file).read_text())
        (self.path / file).write_text(json.dumps({**values, **change(values)}))

    def prove(self) -> Proof:
        return prove(self.path, self.checkpoint, self.tokenizer, PASSAGES, "our passages", self.expected)


def untrained(shape: DecoderConfig) -> Decoder:
    torch.manual_seed(0)
    return Decoder(shape)


@pytest.fixture
def exported(tmp_path: Path) -> Exported:
    return Exported(tmp_path, random_decoder(SHAPE))


def rotary(values: dict[str, Any], **changes: Any) -> dict[str, Any]:
    changed = {**values["rope_parameters"], **changes}
    scaling = {name: value for name, value in changed.items() if name != "rope_theta"}
    is_scaled = changed["rope_type"] != "default"
    return {
        "rope_parameters": changed,
        "rope_theta": changed["rope_theta"],
        "rope_scaling": scaling if is_scaled else None,
    }


WRONG: dict[str, Callable[[dict[str, Any]], Mapping[str, Any]]] = {
    "base of the rotary positions": lambda values: rotary(values, rope_theta=50_000.0),
    "activation": lambda values: {"hidden_act": "gelu"},
    "epsilon of the norms": lambda values: {"rms_norm_eps": 1e-3},
    "scaling, where there is none": lambda values: rotary(values, rope_type="linear", factor=2.0),
}


@pytest.mark.parametrize(
    ("make", "shape"),
    [(random_decoder, SHAPE), (untrained, dataclasses.replace(SHAPE, qk_norm=True)), (untrained, preset("smoke", 300))],
)
def test_rounding_is_far_below_the_tolerance_and_one_wrong_number_far_above(
    tmp_path: Path, make: Callable[[DecoderConfig], Decoder], shape: DecoderConfig
) -> None:
    exported = Exported(tmp_path, make(shape))
    assert exported.proof.max_relative_difference < TOLERANCE / 30
    assert exported.prove() == dataclasses.replace(exported.proof, texts_from="our passages")
    original = (exported.path / "config.json").read_text()
    for change in WRONG.values():
        exported.change("config.json", change)
        with pytest.raises(NotTheSame, match="logits of the export differ") as refused:
            exported.prove()
        apart = re.search(r"(\S+) of their spread", str(refused.value))
        assert apart is not None and float(apart[1]) > 3 * TOLERANCE
        (exported.path / "config.json").write_text(original)


@pytest.mark.parametrize("name", list(SCALINGS))
def test_left_out_scaling_is_found(tmp_path: Path, name: str) -> None:
    exported = Exported(tmp_path, random_decoder(dataclasses.replace(SHAPE, rope_scaling=SCALINGS[name])))
    exported.change("config.json", lambda values: rotary(values, rope_type="default"))
    with pytest.raises(NotTheSame, match="logits of the export differ"):
        exported.prove()


def test_one_bit_of_one_weight_is_found(exported: Exported) -> None:
    file = exported.path / "model.safetensors"
    weights = load_file(file)
    row = weights["model.embed_tokens.weight"][7]  # of a byte that occurs in no passage
    row[0] = torch.nextafter(row[0], torch.tensor(torch.inf))
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(NotTheSame, match=r"other numbers for embedding\.weight"):
        exported.prove()


def test_a_missing_weight_is_found(exported: Exported) -> None:
    file = exported.path / "model.safetensors"
    weights = load_file(file)
    del weights["model.norm.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(NotTheSame, match=r"could not place every weight.*model\.norm\.weight"):
        exported.prove()


def test_a_tokenizer_that_leaves_out_the_first_token_is_found(exported: Exported) -> None:
    exported.change(TOKENIZER_FILE, lambda values: {"post_processor": None})
    with pytest.raises(NotTheSame, match="the exported tokenizer makes"):
        exported.prove()


def test_a_tokenizer_that_reads_special_tokens_is_found(exported: Exported) -> None:
    exported.change("tokenizer_config.json", lambda values: {"split_special_tokens": False})
    with pytest.raises(NotTheSame, match="the exported tokenizer makes"):
        exported.prove()


def test_a_decoder_that_takes_spaces_out_is_found(exported: Exported) -> None:
    exported.change(
        TOKENIZER_FILE, lambda values: {"decoder": {"type": "Strip", "content": " ", "start": 1, "stop": 0}}
    )
    with pytest.raises(NotTheSame, match="of the tokens of"):
        exported.prove()


def test_another_greedy_continuation_is_found(exported: Exported) -> None:
    likeliest = exported.expected.continuations[0][1][0]
    exported.change("generation_config.json", lambda values: {"suppress_tokens": [likeliest]})
    with pytest.raises(NotTheSame, match=f"greedy continuations differ: after 12 tokens.* on with {likeliest},"):
        exported.prove()


def test_a_choice_between_two_equal_logits_is_nobodys_fault(exported: Exported, tmp_path: Path) -> None:
    """Two tokens with the same embedding are equally likely, and either may come first."""
    prompt, continuation = exported.expected.continuations[0]
    twin = 299
    assert twin not in (*prompt, continuation[0])
    model = random_decoder(SHAPE)
    with torch.no_grad():
        model.embedding.weight[twin] = model.embedding.weight[continuation[0]]
    twins = Exported(tmp_path / "twins", model)
    assert twins.expected.continuations[0][1][0] == continuation[0]
    twins.expected = dataclasses.replace(twins.expected, continuations=[(prompt, [twin])])
    assert twins.prove().generated_tokens == 0
    twins.expected = dataclasses.replace(twins.expected, continuations=[(prompt, [twin - 1])])
    with pytest.raises(NotTheSame, match="greedy continuations differ"):
        twins.prove()


def test_a_network_that_diverged_is_refused(tmp_path: Path) -> None:
    model = random_decoder(SHAPE)
    with torch.no_grad():
        model.final_norm.weight.fill_(1e38)
    folder, tokenizer = checkpoint(tmp_path, model)
    with pytest.raises(ValueError, match="logits are not finite"):
        export_model(folder, tokenizer, tmp_path / "out", reference="a model")
    assert not (tmp_path / "out").exists()


def test_what_is_compared_reaches_the_end_of_the_context(exported: Exported) -> None:
    proof = exported.proof
    assert proof.longest_sequence_tokens == SHAPE.max_seq_len == max(map(len, exported.expected.sequences))
    assert proof.texts == len(PASSAGES) and proof.text_bytes == sum(len(text.encode()) for text in PASSAGES)
    assert proof.tokens >= proof.positions > 300
    assert proof.tensors == len(random_decoder(SHAPE).state_dict())
    assert proof.generated_tokens == 3 * 32
    assert proof.loss_nats_per_token == pytest.approx(proof.exported_loss_nats_per_token, rel=1e-6)
    assert all(torch.isfinite(each).all() and each.shape[1] == 320 for each in exported.expected.logits)


@pytest.mark.parametrize(
    ("length", "positions"), [(1, [0]), (2, [0, 1]), (64, list(range(64))), (65, list(range(0, 65, 2)))]
)
def test_positions_are_spread_and_hold_the_last(length: int, positions: list[int]) -> None:
    assert module._positions([0] * length) == positions


def test_without_transformers_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    require_transformers()
    monkeypatch.setitem(sys.modules, "transformers", None)  # as Python marks what can't be imported
    with pytest.raises(ValueError, match=r"not installed here: install tokenmill\[export\]"):
        require_transformers()
