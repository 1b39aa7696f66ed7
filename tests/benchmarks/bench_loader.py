"""What loading costs of a training step: the batch from the memory map, its document ids and its hash.

    python -m tests.benchmarks.bench_loader [--repeats 5]

The recipes `smoke` and `small` (the `10m` network) on this CPU in one thread, on packed prose: both sides are CPU time
of this process and take turns. A step is forward, loss and backward of a few sequences, scaled to the recipe's batch;
the optimizer is left out, which makes the share larger than it is. And the batch of `full` (the `124m` network) against
the time that its products take on one H200 at half of its peak, which is computed, not measured.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from model.config import num_parameters
from model.decoder import Decoder
from tasks.loader import TokenLoader, batch_hash
from tasks.pack import TokenShards
from tasks.recipes.pretraining import PretrainRecipe, full, small, smoke
from tests.benchmarks.report import report
from tests.tasks.packed_texts import pack_texts

NUM_DOCUMENTS, MAX_DOCUMENT_TOKENS = 2_000, 6_000
SEQUENCES = {"smoke": 4, "small": 1}
"""How many are trained on in a turn."""
H200_FLOP_PER_S = 0.5 * 989e12
"""Half of the dense bf16 peak in NVIDIA's data sheet of the H200."""


def shards_of(folder: Path) -> TokenShards:
    """About 6M tokens, in documents of 200 to 6,000."""
    lengths = np.random.default_rng(0).integers(200, MAX_DOCUMENT_TOKENS, NUM_DOCUMENTS)
    texts = {f"{number:05d}": "plain prose " * int(length // 12) for number, length in enumerate(lengths)}
    return TokenShards(pack_texts(folder, texts))


def cpu_s(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def batch_tokens(recipe: PretrainRecipe) -> int:
    """These recipes name it: it does not follow from a corpus' size."""
    assert recipe.global_batch_tokens is not None
    return recipe.global_batch_tokens


def loading(recipe: PretrainRecipe, shards: TokenShards) -> Callable[[int], object]:
    sequences = batch_tokens(recipe) // recipe.seq_len
    loader = TokenLoader(shards, seq_len=recipe.seq_len, global_batch_sequences=sequences, seed=recipe.seed)
    return lambda step: batch_hash(loader.batch(step))


def training_on_this_cpu(recipe: PretrainRecipe) -> Callable[[], float]:
    """Measures a step, in seconds of CPU time: of a few sequences, times as many as the batch has."""
    torch.manual_seed(0)
    model = Decoder(recipe.decoder_config())
    sequences = SEQUENCES[recipe.name]
    tokens_BT = torch.randint(0, recipe.vocab_size, (sequences, recipe.seq_len + 1))

    def step() -> None:
        model.loss(tokens_BT[:, :-1], tokens_BT[:, 1:]).backward()

    step()
    return lambda: cpu_s(step) * batch_tokens(recipe) / tokens_BT[:, 1:].numel()


def training_on_h200(recipe: PretrainRecipe) -> Callable[[], float]:
    """Computes a step, in seconds: 6 FLOPs a parameter and token (Kaplan et al. 2020), without attention's."""
    flop = 6 * num_parameters(recipe.decoder_config()) * batch_tokens(recipe)
    return lambda: flop / H200_FLOP_PER_S


def turns(load: Callable[[int], object], step_s: Callable[[], float], repeats: int) -> list[tuple[float, float]]:
    """Seconds of loading a step, and of training it, by turn; the first one is left out."""
    found = []
    for turn in range(repeats + 1):
        found.append((cpu_s(functools.partial(load, turn)), step_s()))
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description="the share of loading in a training step")
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        shards = shards_of(Path(folder) / "web")
        for recipe, training, where in (
            (smoke(), training_on_this_cpu, "this CPU"),
            (small(), training_on_this_cpu, "this CPU"),
            (full(), training_on_h200, "H200, computed"),
        ):
            found = turns(loading(recipe, shards), training(recipe), repeats)
            shares = [100 * load_s / step_s for load_s, step_s in found]
            load_s, step_s = (statistics.median(seconds) for seconds in zip(*found, strict=True))
            spread = f"{statistics.median(shares):.3f} ({min(shares):.3f} to {max(shares):.3f})"
            batch = f"{batch_tokens(recipe) // recipe.seq_len} x {recipe.seq_len}"
            rows.append([recipe.name, batch, where, 1e3 * load_s, 1e3 * step_s, spread, "below 1"])
    report(
        "loader",
        ("recipe", "batch", "step on", "loading, ms", "step, ms", "share, %", "wanted"),
        rows,
        {"repeats": repeats, "tokens": shards.num_tokens, "documents": shards.num_documents},
    )


if __name__ == "__main__":
    main()
