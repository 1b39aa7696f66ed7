"""What a person should know of a registered model, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from model.config import DecoderConfig, num_parameters
from tasks.checkpoints import CheckpointState
from tasks.markdown import markdown_cell, markdown_facts
from tasks.recipes.pretraining import PRETRAIN_RECIPES
from tasks.trained_corpora import DRAWN_TAG, TrainedCorpus, trained_corpora
from tasks.training.course import trained_with

SPIKES_TAG, LEFT_OUT_TAG = "spikes", "steps_left_out"
"""Of a version: loss spikes of its run, and the steps that were not taken for them. Earlier versions have none."""


def tokens_trained_on(state: CheckpointState, tags: Mapping[str, str]) -> int:
    """Repetitions included, and without the steps that were left out after a spike."""
    return (state.step - int(tags.get(LEFT_OUT_TAG, 0))) * (state.tokens_seen // state.step)


def model_card(reference: str, state: CheckpointState, tags: Mapping[str, str], summary: str) -> str:
    """The card of the version `reference`, `name@version`: what it is, its data, recipe, scores, use and limits.

    `state` is the checkpoint's own account; `tags` are the version's; `summary` is the first paragraph, as Markdown.
    """
    name, _, version = reference.partition("@")
    shape = DecoderConfig.from_dict(state.decoder)
    tokens = tokens_trained_on(state, tags)
    sections: dict[str, dict[str, object]] = {
        "Network": {
            "parameters": num_parameters(shape),
            "preset": state.recipe.model,
            "layers": shape.num_layers,
            "width": shape.d_model,
            "heads": f"{shape.num_heads}, {shape.num_kv_heads} for keys and values",
            "queries and keys normalised (QK-norm)": "yes" if shape.qk_norm else "no",
            "vocabulary": shape.vocab_size,
            "longest sequence, tokens": shape.max_seq_len,
            "tokenizer SHA-256": state.tokenizer_sha256,
        },
        "Data": {
            "corpus": tags.get("corpus", "not recorded"),
            "digest": state.corpus_digest,
            **_mixed_with(tags),
            "licences": "unknown: nothing of the pages' licences is looked at",
        },
        "Training": {
            "recipe": state.recipe.name,
            "changed settings": _changed_settings(state),
            **_trained_with(state),
            "steps": f"{state.step:,} of {state.num_steps:,}",
            **_spikes(state, tags),
            "tokens, repetitions included": tokens,
            "tokens per parameter": f"{tokens / num_parameters(shape):.3g}",
            "code": _code(tags),
        },
        "Scores": _scores(state),
    }
    parts = [f"# {markdown_cell(reference)}", summary.strip()]
    parts += [f"## {title}\n\n{markdown_facts(facts)}" for title, facts in sections.items()]
    parts.append(_use(name, version))
    parts.append(
        "## Limits\n\n"
        f"Trained on {tokens:,} tokens and on nothing else: it continues text in the manner of its corpus. "
        "It has not been taught to answer, to be right, or to refuse, and was not examined for what it may say of "
        "people. It is for experiments, not for use with people."
    )
    return "\n\n".join(parts) + "\n"


def _mixed_with(tags: Mapping[str, str]) -> dict[str, object]:
    """The other corpora of a mixture, and what was drawn of each; nothing where there is one corpus."""
    main, *more = trained_corpora(tags)
    if not more:
        return {}
    drawn: dict[str, int] = json.loads(tags.get(DRAWN_TAG, "{}"))

    def share(corpus: TrainedCorpus) -> str:
        return f"{drawn[corpus.corpus]:,} tokens" if corpus.corpus in drawn else "not recorded"

    others = {f"mixed with {each.corpus}": f"{share(each)}; digest {each.digest}" for each in more}
    return {"drawn of the corpus": share(main), **others, "held-out text": "of the first corpus alone"}


def _changed_settings(state: CheckpointState) -> str:
    """What differs from the named recipe as it is now."""
    if state.recipe.name not in PRETRAIN_RECIPES:
        return "not known: there is no recipe of this name"
    named = dict(_settings(PRETRAIN_RECIPES[state.recipe.name]().model_dump(mode="json")))
    trained = dict(_settings(state.recipe.model_dump(mode="json")))
    changed = [f"{key}={value}" for key, value in trained.items() if key not in named or named[key] != value]
    return ", ".join(changed) or "none"


def _settings(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """As `--set` names them: `spikes.policy`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _trained_with(state: CheckpointState) -> dict[str, object]:
    recipe, hyper = state.recipe, trained_with(state)
    inherited = recipe.decay_from and recipe.learning_rate is None
    return {
        "optimizer": {"adamw": "AdamW", "muon": "Muon, with AdamW for what is no matrix of a block"}[recipe.optimizer],
        "learning rate, at its peak": "of the run it decays from" if inherited else f"{hyper.learning_rate:.4g}",
        "schedule": f"{recipe.schedule}, from {recipe.decay_from}" if recipe.decay_from else recipe.schedule,
        "batch, tokens": hyper.batch_tokens,
        "weight decay": f"{hyper.weight_decay:g}",
        "attention": "inside each document" if recipe.document_mask else "over the whole sequence of packed documents",
        "precision": "fp32; bf16 autocast on a GPU" if recipe.precision == "auto" else recipe.precision,
        "processes": state.world_size,
        "seed": str(recipe.seed),
    }


def _spikes(state: CheckpointState, tags: Mapping[str, str]) -> dict[str, object]:
    """What was not trained on; that of rolled-back steps is counted in no step."""
    if SPIKES_TAG not in tags:
        return {}
    left_out = int(tags.get(LEFT_OUT_TAG, 0))
    batches = sum(last - first + 1 for first, last in state.skipped)
    facts = [f"{int(tags[SPIKES_TAG]):,}", f"policy {state.recipe.spikes.policy}"]
    facts += [f"{left_out:,} of the steps left out"] if left_out else []
    facts += [f"{batches:,} batches left out by going back"] if batches else []
    return {"loss spikes": ", ".join(facts)}


def _code(tags: Mapping[str, str]) -> str:
    commit = tags.get("git_commit", "")
    return f"{tags.get('code_version', 'not recorded')[:16]}{f', commit {commit[:12]}' if commit else ''}"


def _scores(state: CheckpointState) -> dict[str, object]:
    scores: dict[str, object] = {"training loss of the last step, nats per token": f"{state.loss:.4f}"}
    if state.held_out is None:
        return scores | {"held-out text": "not scored at this step"}
    held_out = state.held_out
    return {
        "bits per byte on held-out text": f"{held_out.bits_per_byte:.4f}",
        "loss on held-out text, nats per token": f"{held_out.loss_nats_per_token:.4f}",
        "held-out documents": f"{held_out.num_documents:,}, {held_out.num_bytes:,} bytes",
        **scores,
    }


def _use(name: str, version: str) -> str:
    """Three lines of Python, and one of the shell."""
    return (
        "## Use\n\n"
        "```python\n"
        "import mlflow\n"
        f'model = mlflow.pyfunc.load_model("models:/{name}/{version}")\n'
        'print(model.predict(["The function returns"], params={"max_new_tokens": 64}))\n'
        "```\n\n"
        f'`tokenmill generate --model {name}@{version} --prompt "The function returns"`'
    )
