"""What the network writes while it is being trained: `samples.jsonl`, one line a prompt and evaluation.

A line holds step, prompt and text. The continuations are drawn with a generator of their own, so that a run with
samples takes the same steps as one without, and a resumed run writes the same samples as one that was not stopped.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from model.decoder import Decoder
from model.generate import generate
from tasks.atomic import write_file
from tasks.tokenizer import END_OF_TEXT_ID, encodable

SAMPLES_FILE = "samples.jsonl"
PROMPTS = ("", "The ", "This is a")  # the first begins a new document
MAX_NEW_TOKENS = 32  # 3 x 32 tokens cost a smoke model .3 s on a CPU core
TEMPERATURE, TOP_K = 0.8, 50


def append_samples(samples_file: Path, model: Decoder, tokenizer: Tokenizer, step: int) -> None:
    """Continue every prompt that leaves room in the context. Leaves the model in the mode it was in."""
    was_training = model.training
    model.eval()
    with samples_file.open("ab") as file:
        for seed, prompt in enumerate(PROMPTS):
            tokens = [END_OF_TEXT_ID, *tokenizer.encode(encodable(prompt)).ids]
            room = model.config.max_seq_len - len(tokens)
            if room < 1:
                continue
            new_tokens = generate(
                model,
                tokens,
                max_new_tokens=min(MAX_NEW_TOKENS, room),
                temperature=TEMPERATURE,
                top_k=TOP_K,
                eos_id=END_OF_TEXT_ID,
                seed=seed,
                num_tokens=tokenizer.get_vocab_size(),
            )
            row = {"step": step, "prompt": prompt, "text": tokenizer.decode(list(new_tokens))}
            file.write((json.dumps(row) + "\n").encode())
    model.train(was_training)


def read_samples(samples_file: Path) -> list[dict[str, Any]]:
    """All complete lines; none where nothing was evaluated yet. A last line that is being written is left out."""
    content = samples_file.read_bytes() if samples_file.is_file() else b""
    return [json.loads(line) for line in content.splitlines(keepends=True) if line.endswith(b"\n")]


def samples_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Step, prompt and text: MLflow's page shows CSV as a table."""
    text = io.StringIO()
    table = csv.DictWriter(text, ("step", "prompt", "text"))
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def truncate_samples(samples_file: Path, num_steps: int) -> None:
    """Keep what was written in the first `num_steps` steps: the later ones are about to be taken again."""
    rows = [row for row in read_samples(samples_file) if row["step"] <= num_steps]
    write_file(samples_file, b"".join((json.dumps(row) + "\n").encode() for row in rows))
