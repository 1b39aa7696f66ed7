"""The words of `tokenmill export`, and what they do: a model becomes a folder for other people's programs."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from flows.option_types import local_path, model_reference

if TYPE_CHECKING:
    from infra.registry import ModelVersion
    from tasks.store import Store

NUM_DOCUMENTS = 8
"""Held-out documents of the model's own corpus that an export is proven on, the first in the order of evaluation."""


def add_options(command: argparse.ArgumentParser) -> None:
    """A model by any of its names, and a folder that is not there yet."""
    command.epilog = (
        "example: `tokenmill export --model docs-smoke@champion --output docs-model`; then, in Python,"
        ' `AutoModelForCausalLM.from_pretrained("docs-model")`. Both compute the same on real text, or there is no'
        " folder: proof.json in it has the figures"
    )
    command.add_argument(
        "--model",
        required=True,
        type=model_reference,
        metavar="M",
        help="name[@version|@alias], models:/..., or a checkpoint by folder or URL",
    )
    command.add_argument(
        "--format", default="hf", choices=["hf"], help="hf (default): for Hugging Face's transformers, as safetensors"
    )
    command.add_argument("--output", required=True, type=local_path, metavar="DIR", help="the folder to make")


def export(options: argparse.Namespace, store: Store) -> int:
    """Run the command. Its exit code, 0."""
    from flows.console import console
    from infra.registry import find_model
    from tasks.export.destination import check_destination
    from tasks.export.export import export_model
    from tasks.export.proof import require_transformers

    check_destination(options.output)  # before anything is fetched
    require_transformers()
    version = find_model(store, options.model)
    is_registered = bool(version.tags)  # a checkpoint that was named by its folder or URL has none
    texts, texts_from = _held_out_texts(store, version)
    exported = export_model(
        version.folder,
        version.tokenizer_file,
        options.output,
        reference=version.reference if is_registered else version.folder.rstrip("/").rpartition("/")[2],
        description=_card(store, version) if is_registered else "",
        texts=texts,
        texts_from=texts_from,
        say=console.say,
    )
    proof, weights = exported.proof, exported.weights
    print(f"{'parameters':<28}{weights.num_parameters:>16,} in {', '.join(weights.dtypes)}")
    print(f"{'tokens compared':<28}{proof.tokens:>16,} the same")
    print(f"{'positions compared':<28}{proof.positions:>16,} with all logits")
    print(f"{'largest difference':<28}{proof.max_relative_difference:>16.2g} of their spread")
    print(f"{'loss, nats per token':<28}{proof.loss_nats_per_token:>16.6f} {proof.exported_loss_nats_per_token:.6f}")
    print(f"{'tokens generated':<28}{proof.generated_tokens:>16,} the same")
    print(exported.path)
    if options.json:
        print(json.dumps(exported.as_json()))
    return 0


def _held_out_texts(store: Store, version: ModelVersion) -> tuple[list[str], str]:
    """Texts that the model was not trained on, and whose they are; nothing where they are not in this store."""
    from flows.console import console
    from tasks.checkpoints import read_state
    from tasks.evaluation.bits_per_byte import choose_documents, document_texts
    from tasks.pack import TokenShards
    from tasks.tokenization import find_tokens
    from tasks.tokenizer import load_tokenizer

    state = read_state(version.folder)
    try:
        tokens = find_tokens(store, corpus_digest=state.corpus_digest, tokens_digest=state.tokens_digests[0])
    except ValueError as error:  # a model from elsewhere: there are always our own passages
        console.say(f"no held-out text to compare on: {error}")
        return [], ""
    shards = TokenShards(tokens, "held_out")
    numbers = choose_documents(shards, NUM_DOCUMENTS)
    corpus = version.tags.get("corpus", f"the corpus with the digest {state.corpus_digest[:16]}")
    return (
        document_texts(shards, numbers, load_tokenizer(version.tokenizer_file)),
        f"{len(numbers)} held-out documents of {corpus}",
    )


def _card(store: Store, version: ModelVersion) -> str:
    """The description of a registered version, Markdown that was made here."""
    from infra.registered_versions import find_version
    from infra.tracking_client import client

    return find_version(store, client(store), version.reference, "model").description or ""
