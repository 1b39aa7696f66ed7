"""What lies in the folder is the model, to anybody who has transformers and not us; or there is no folder."""

from __future__ import annotations

import dataclasses
import json
import shutil
import stat
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from model.config import DecoderConfig
from model.generate import generate
from tasks.checkpoints import load_decoder
from tasks.export.export import Export, export_model
from tasks.export.passages import PASSAGES
from tasks.tokenizer import END_OF_TEXT_ID, load_tokenizer
from tests.data.prose import prose
from tests.model.reference_networks import random_decoder
from tests.tasks.export.exportable import NUM_TOKENS, SCALINGS, SHAPE, checkpoint, checkpoint_of_two, tokenizer_file
from tests.tasks.export.test_weights import no_file_beyond

SHAPES: dict[str, DecoderConfig] = {
    "grouped queries": SHAPE,
    "one key/value head": dataclasses.replace(SHAPE, num_kv_heads=1),
    "a head for each": dataclasses.replace(SHAPE, num_kv_heads=4),
    "QK-norm": dataclasses.replace(SHAPE, qk_norm=True),
    "a head of its own": dataclasses.replace(SHAPE, tie_embeddings=False),
    "QK-norm and a head of its own": dataclasses.replace(SHAPE, qk_norm=True, tie_embeddings=False),
    **{name: dataclasses.replace(SHAPE, rope_scaling=scaling) for name, scaling in SCALINGS.items()},
    "QK-norm, yarn": dataclasses.replace(SHAPE, qk_norm=True, rope_scaling=SCALINGS["yarn"]),
}


def exported(folder: Path, shape: DecoderConfig = SHAPE, **options: Any) -> tuple[Export, str, Path]:
    """An export, the checkpoint that it was made of, and its tokenizer."""
    source, tokenizer = checkpoint(folder, random_decoder(shape))
    return export_model(source, tokenizer, folder / "out", reference="some@3", **options), source, tokenizer


def loaded(path: Path) -> tuple[Any, Any]:
    """Network and tokenizer as anybody loads them."""
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(path, local_files_only=True)
    return network, transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)


@pytest.mark.parametrize("name", list(SHAPES))
def test_every_kind_of_network_computes_and_continues_as_ours(tmp_path: Path, name: str) -> None:
    export, source, tokenizer_path = exported(tmp_path, SHAPES[name])
    ours, tokenizer = load_decoder(source)[0], load_tokenizer(tokenizer_path)
    theirs, their_tokenizer = loaded(export.path)
    assert type(theirs).__name__ == ("Qwen3ForCausalLM" if SHAPES[name].qk_norm else "LlamaForCausalLM")

    text = prose(99)
    batch = their_tokenizer(text, return_tensors="pt", truncation=True, return_token_type_ids=False)
    assert batch["input_ids"].shape == (1, SHAPE.max_seq_len)
    with torch.inference_mode():
        wanted = ours(batch["input_ids"])
        torch.testing.assert_close(theirs(**batch).logits, wanted, atol=2e-4, rtol=1e-4)

    prompt = their_tokenizer("The old harbour", return_tensors="pt", return_token_type_ids=False)
    continued = theirs.generate(**prompt, max_new_tokens=24, do_sample=False)[0].tolist()
    ids = [END_OF_TEXT_ID, *tokenizer.encode("The old harbour").ids]
    greedy = generate(
        ours, ids, max_new_tokens=24, temperature=0.0, eos_id=END_OF_TEXT_ID, seed=0, num_tokens=NUM_TOKENS
    )
    assert continued[: len(ids)] == ids
    assert [token for token in continued[len(ids) :] if token != END_OF_TEXT_ID] == list(greedy)


def test_padding_of_the_vocabulary_is_never_drawn(tmp_path: Path) -> None:
    model = random_decoder(dataclasses.replace(SHAPE, tie_embeddings=False))
    assert model.head is not None
    with torch.no_grad():
        model.head.weight[NUM_TOKENS:] *= 50  # the likeliest by far, one way or the other
    source, tokenizer = checkpoint(tmp_path, model)
    export = export_model(source, tokenizer, tmp_path / "out", reference="some@3")
    theirs, their_tokenizer = loaded(export.path)
    prompt = their_tokenizer("The", return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        assert int(theirs(**prompt).logits[0, -1].argmax()) >= NUM_TOKENS
    torch.manual_seed(0)
    for options in ({"do_sample": False}, {"do_sample": True, "temperature": 5.0}):
        assert max(theirs.generate(**prompt, max_new_tokens=40, **options)[0].tolist()) < NUM_TOKENS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_the_precision_stays_and_is_proven(tmp_path: Path, dtype: torch.dtype) -> None:
    model = random_decoder(SHAPE)
    weights = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    source, tokenizer = checkpoint(tmp_path, model, weights=weights)
    export = export_model(source, tokenizer, tmp_path / "out", reference="some@3")
    theirs, _ = loaded(export.path)
    assert theirs.dtype == dtype and export.weights.dtypes == (str(dtype).removeprefix("torch."),)


def test_pieces_of_two_processes_in_several_files(tmp_path: Path) -> None:
    source, tokenizer = checkpoint_of_two(tmp_path, random_decoder(SHAPE))
    export = export_model(source, tokenizer, tmp_path / "out", reference="some@3", max_file_bytes=20_000)
    assert len(list(export.path.glob("model-*.safetensors"))) > 2
    torch.testing.assert_close(
        loaded(export.path)[0].state_dict()["model.norm.weight"], random_decoder(SHAPE).final_norm.weight.detach()
    )


def test_a_checkpoint_behind_a_url(tmp_path: Path) -> None:
    source, tokenizer = checkpoint(tmp_path, random_decoder(SHAPE))
    export = export_model(f"file://{source}", tokenizer, tmp_path / "out", reference="some@3")
    assert export.proof.positions > 300


def test_what_is_in_the_folder(tmp_path: Path) -> None:
    said: list[str] = []
    texts = [prose(1), prose(2)]
    export, _, _ = exported(
        tmp_path, texts=texts, texts_from="two held-out documents", description="# some@3\n\nA *card*.", say=said.append
    )
    assert sorted(file.name for file in export.path.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "proof.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert len({stat.S_IMODE(file.stat().st_mode) for file in export.path.iterdir()}) == 1
    assert json.loads((export.path / "proof.json").read_text()) == export.proof.as_json()
    assert export.proof.texts == len(PASSAGES) + 2
    card = (export.path / "README.md").read_text()
    assert "two held-out documents and passages of Tokenmill" in card and "A *card*." in card
    assert texts[0][:30] not in card + (export.path / "proof.json").read_text()
    assert str(tmp_path) not in "".join(
        file.read_text() for file in export.path.iterdir() if file.suffix != ".safetensors"
    )
    assert len(said) == 3
    assert export.as_json()["parameters"] == sum(
        tensor.numel() for tensor in random_decoder(SHAPE).state_dict().values()
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_export_that_is_not_the_same_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.export import export as module

    right = module.model_configuration
    monkeypatch.setattr(module, "model_configuration", lambda *given: {**right(*given), "rms_norm_eps": 0.1})
    with pytest.raises(ValueError, match="logits of the export differ"):
        exported(tmp_path)
    assert names(tmp_path) == {"step-00000002", "tokenizer.json"}


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path) -> None:
    source, tokenizer = checkpoint(tmp_path, random_decoder(SHAPE))
    with no_file_beyond(20_000), pytest.raises(OSError, match="could not be written"):
        export_model(source, tokenizer, tmp_path / "out", reference="some@3")
    assert names(tmp_path) == {"step-00000002", "tokenizer.json"}


def test_what_takes_the_name_meanwhile_stays_and_the_export_says_so(tmp_path: Path) -> None:
    source, tokenizer = checkpoint(tmp_path, random_decoder(SHAPE))

    def another(line: str) -> None:
        if line.startswith("loading"):
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").write_text("kept")

    with pytest.raises(ValueError, match="out has come into being meanwhile: the export was thrown away"):
        export_model(source, tokenizer, tmp_path / "out", reference="some@3", say=another)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_too_little_room_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, tokenizer = checkpoint(tmp_path, random_decoder(SHAPE))
    needed = (Path(source) / "model.safetensors").stat().st_size + (64 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(needed, 1, needed - 1))
    with pytest.raises(ValueError, match=r"the export takes 67 MB and 67 MB are free in .*: make room there"):
        export_model(source, tokenizer, tmp_path / "out", reference="some@3")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(needed, 0, needed))
    export_model(source, tokenizer, tmp_path / "out", reference="some@3")


@pytest.mark.parametrize("kind", ["file", "folder", "empty folder", "link to nothing"])
def test_nothing_is_overwritten(tmp_path: Path, kind: str) -> None:
    source, tokenizer = checkpoint(tmp_path, random_decoder(SHAPE))
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "link to nothing":
        out.symlink_to(tmp_path / "nowhere")
    else:
        out.mkdir()
        if kind == "folder":
            (out / "mine").write_text("mine")
    with pytest.raises(ValueError, match="is there already: name another folder"):
        export_model(source, tokenizer, out, reference="some@3")
    assert kind != "file" or out.read_text() == "mine"
    assert kind != "folder" or names(out) == {"mine"}


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    source, tokenizer = checkpoint(tmp_path, random_decoder(SHAPE))
    with pytest.raises(ValueError, match=r"can't be a folder: .*tokenizer\.json is a file"):
        export_model(source, tokenizer, tokenizer / "out", reference="some@3")


@pytest.mark.parametrize("harm", ["unfinished", "shorter", "one byte", "another state", "no folder"])
def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path, harm: str) -> None:
    source, tokenizer = checkpoint(tmp_path, random_decoder(SHAPE))
    weights, state = Path(source) / "model.safetensors", Path(source) / "state.json"
    if harm == "unfinished":
        state.unlink()
    elif harm == "shorter":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif harm == "one byte":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif harm == "another state":
        body = json.loads(state.read_text())
        body["state"]["decoder"]["num_layers"] = 3
        state.write_text(json.dumps(body))
    else:
        shutil.rmtree(source)
    with pytest.raises(ValueError, match=r"no complete checkpoint|is damaged|has no parameter blocks\.2"):
        export_model(source, tokenizer, tmp_path / "out", reference="some@3")
    assert "out" not in names(tmp_path)


def test_the_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    source, _ = checkpoint(tmp_path, random_decoder(SHAPE))
    other = tokenizer_file(tmp_path / "other")
    other.write_text(other.read_text() + "\n")
    with pytest.raises(ValueError, match="is not the tokenizer that the model"):
        export_model(source, other, tmp_path / "out", reference="some@3")


def test_a_tokenizer_with_more_tokens_than_the_network_has_rows_is_refused(tmp_path: Path) -> None:
    source, tokenizer = checkpoint(tmp_path, random_decoder(dataclasses.replace(SHAPE, vocab_size=256)))
    with pytest.raises(ValueError, match=r"has 300 tokens, the model in .* 256 rows"):
        export_model(source, tokenizer, tmp_path / "out", reference="some@3")
