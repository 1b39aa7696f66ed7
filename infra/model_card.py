"""What a person should know of a registered model, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping

from model.config import DecoderConfig, num_parameters
from tasks.checkpoints import CheckpointState
from tasks.markdown import markdown_cell, markdown_facts
from tasks.trained_corpora import DRAWN_TAG, TrainedCorpus, trained_corpora


def model_card(reference: str, state: CheckpointState, tags: Mapping[str, str], summary: str) -> str:
    """The card of the version `reference`, `name@version`: what it is, its data, recipe, scores, use and limits.

    `state` is the checkpoint's own account; `tags` are the version's; `summary` is the first paragraph, as Markdown.
    """
    name, _, version = reference.partition("@")
    shape = DecoderConfig.from_dict(state.decoder)
    sections: dict[str, dict[str, object]] = {
        "Network": {
            "parameters": num_parameters(shape),
            "preset": state.recipe.model,
            "layers": shape.num_layers,
            "width": shape.d_model,
            "heads": f"{shape.num_heads}, {shape.num_kv_heads} for keys and values",
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
            "steps": f"{state.step:,} of {state.num_steps:,}",
            "tokens, repetitions included": state.tokens_seen,
            "tokens per parameter": f"{state.tokens_seen / num_parameters(shape):.3g}",
            "code": _code(tags),
        },
        "Scores": _scores(state),
    }
    parts = [f"# {markdown_cell(reference)}", summary.strip()]
    parts += [f"## {title}\n\n{markdown_facts(facts)}" for title, facts in sections.items()]
    parts.append(_use(name, version))
    parts.append(
        "## Limits\n\n"
        f"Trained on {state.tokens_seen:,} tokens and on nothing else: it continues text in the manner of its corpus. "
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
