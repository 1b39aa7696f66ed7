from pathlib import Path

from infra.model_card import LEFT_OUT_TAG, SPIKES_TAG, model_card, tokens_trained_on
from tasks.checkpoints import load_decoder, read_state
from tasks.trained_corpora import mixture_tags
from tests.infra.small_model import CORPUS_DIGEST, small_model

SKIP = {"policy": "skip"}


def test_the_card_says_what_it_is_what_it_was_made_of_and_how_to_use_it(tmp_path: Path) -> None:
    checkpoint = small_model(tmp_path, step=2)[0]
    network, state = load_decoder(checkpoint)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    tags = {"corpus": "web@3", "code_version": "e" * 64, "git_commit": "f" * 40}
    card = model_card("web-smoke@4", state, tags, "Trained **today**.")
    assert card.startswith("# web-smoke@4\n\nTrained **today**.\n\n## Network\n\n")
    for line in (
        f"- **parameters**: {num_parameters:,}",
        "- **corpus**: web@3",
        f"- **digest**: {CORPUS_DIGEST}",
        f"- **tokenizer SHA-256**: {state.tokenizer_sha256}",
        "- **tokens, repetitions included**: 2,048",
        "- **code**: eeeeeeeeeeeeeeee, commit ffffffffffff",
        "- **bits per byte on held-out text**: 1.5000",
        "- **licences**: unknown: nothing of the pages' licences is looked at",
        'model = mlflow.pyfunc.load_model("models:/web-smoke/4")',
        '`tokenmill generate --model web-smoke@4 --prompt "The function returns"`',
    ):
        assert line in card.splitlines()
    assert "Trained on 2,048 tokens" in card and "not for use with people" in card


def test_it_says_how_it_was_trained(tmp_path: Path) -> None:
    state = read_state(small_model(tmp_path)[0])
    plain = model_card("m@1", state, {}, "").splitlines()
    for line in (
        "- **changed settings**: none",
        "- **optimizer**: AdamW",
        "- **learning rate, at its peak**: 0.002",
        "- **batch, tokens**: 1,024",
        "- **attention**: over the whole sequence of packed documents",
        "- **queries and keys normalised (QK-norm)**: no",
    ):
        assert line in plain
    changes = {"optimizer": "muon", "document_mask": True, "spikes": state.recipe.spikes.model_copy(update=SKIP)}
    changed = state.model_copy(update={"recipe": state.recipe.model_copy(update=changes)})
    lines = model_card("m@1", changed, {}, "").splitlines()
    assert "- **changed settings**: document\\_mask=True, optimizer=muon, spikes.policy=skip" in lines
    assert "- **attention**: inside each document" in lines
    decay = {"decay_from": "/runs/a/checkpoints/step-00000100", "learning_rate": None, "schedule": "wsd"}
    decayed = state.model_copy(update={"recipe": state.recipe.model_copy(update=decay)})
    card = model_card("m@1", decayed, {}, "")
    assert "- **learning rate, at its peak**: of the run it decays from" in card


def test_what_was_left_out_after_spikes_is_not_said_to_be_trained_on(tmp_path: Path) -> None:
    state = read_state(small_model(tmp_path, step=5)[0])
    state = state.model_copy(update={"skipped": ((7, 9), (12, 12))})
    tags = {SPIKES_TAG: "3", LEFT_OUT_TAG: "2"}
    card = model_card("m@1", state, tags, "")
    assert tokens_trained_on(state, tags) == 3072 and "Trained on 3,072 tokens" in card
    lines = card.splitlines()
    assert "- **tokens, repetitions included**: 3,072" in lines
    assert "- **loss spikes**: 3, policy alert, 2 of the steps left out, 4 batches left out by going back" in lines
    assert "loss spikes" not in model_card("m@1", state, {}, "")
    assert "- **loss spikes**: 0, policy alert" in model_card(
        "m@1", state.model_copy(update={"skipped": ()}), {SPIKES_TAG: "0", LEFT_OUT_TAG: "0"}, ""
    )


def test_what_is_not_known_is_said_to_be_so_and_names_are_escaped(tmp_path: Path) -> None:
    state = read_state(small_model(tmp_path)[0]).model_copy(update={"held_out": None})
    card = model_card("m@1", state, {"corpus": "<img src=x>[a](b)"}, "")
    assert "- **held-out text**: not scored at this step" in card
    assert "- **code**: not recorded" in card
    assert "<img" not in card and "[a](b)" not in card


def test_of_a_mixture_it_says_what_was_drawn_of_each(tmp_path: Path) -> None:
    state = read_state(small_model(tmp_path)[0])
    more = [{"corpus": "news@2", "corpus_digest": "ab" * 32}, {"corpus": "books@1", "corpus_digest": "cd" * 32}]
    tags = {"corpus": "web@3"} | mixture_tags(more, [], {"web@3": 1500, "news@2": 500})
    lines = model_card("m@1", state, tags, "").splitlines()
    assert "- **corpus**: web@3" in lines and "- **drawn of the corpus**: 1,500 tokens" in lines
    assert f"- **mixed with news@2**: 500 tokens; digest {'ab' * 32}" in lines
    assert f"- **mixed with books@1**: not recorded; digest {'cd' * 32}" in lines
    assert "drawn of" not in model_card("m@1", state, {"corpus": "web@3"}, "")
