"""Tokens a second of whole training steps, ours against `transformers`' Llama of the same shape, on the CPU.

    python -m tests.benchmarks.bench_training [--repeats 15] [--precisions bf16 fp32]

The `10m` preset at vocabularies of 8,192 and 32,768; a batch of 2 sequences of 512 tokens; forward, loss, backward and
a step of fused AdamW; the same weights to start from, the same batches. Both are compiled: ours block by block, as
training does it, the reference as a whole. They take turns of one step, each first every other time; the first turn,
which compiles, does not count. A ratio is the median of the turns' and, because machines are noisy, their quartiles.
The losses of all steps are compared too: it is the same training.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from model.config import preset
from model.decoder import Decoder
from model.optimizer import build_adamw
from model.parallel import Parallelism, parallelize
from tests.benchmarks.plain_llama import fused_adamw
from tests.benchmarks.report import report
from tests.model.reference_networks import reference_network

SEQUENCES, SEQ_LEN = 2, 512
VOCABULARIES = {8_192: 1.0, 32_768: 1.2}
"""Sizes, and the ratio that is wanted there."""

Step = Callable[[Tensor], float]


def our_step(model: Decoder, *, bf16: bool) -> Step:
    layout = Parallelism(compile=True, bf16=bf16)
    parallelize(model, layout, None, "cpu")
    optimizer = build_adamw(model, learning_rate=1e-3)

    def step(tokens_BT: Tensor) -> float:
        with layout.autocast("cpu"):
            loss = model.loss(tokens_BT[:, :-1], tokens_BT[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def their_step(model: nn.Module, *, bf16: bool) -> Step:
    model.train()
    optimizer = fused_adamw(model, 1e-3)
    compiled = torch.compile(model)

    def step(tokens_BT: Tensor) -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            # `labels` alone would be shifted inside, over one position more than ours and over logits of an odd length
            inputs_BT, targets_BT = tokens_BT[:, :-1], tokens_BT[:, 1:].contiguous()
            loss: Tensor = compiled(inputs_BT, labels=targets_BT, shift_labels=targets_BT, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


Turn = tuple[float, float]
"""Seconds of a step of ours, and of theirs."""


def measure(vocab_size: int, precision: str, repeats: int) -> tuple[list[Turn], list[Turn], float]:
    """By the clock and in CPU time, turn by turn; and the largest relative difference of any loss."""
    torch.manual_seed(0)
    model = Decoder(dataclasses.replace(preset("10m", vocab_size), max_seq_len=SEQ_LEN))
    theirs = their_step(reference_network(model), bf16=precision == "bf16")
    ours = our_step(model, bf16=precision == "bf16")
    generator = torch.Generator().manual_seed(1)
    difference = 0.0
    by_clock: list[Turn] = []
    in_cpu_time: list[Turn] = []
    for turn in range(repeats + 1):
        tokens_BT = torch.randint(0, vocab_size, (SEQUENCES, SEQ_LEN + 1), generator=generator)
        steps = {"ours": ours, "theirs": theirs} if turn % 2 else {"theirs": theirs, "ours": ours}
        seconds, cpu_seconds, losses = {}, {}, {}
        for name, step in steps.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            losses[name] = step(tokens_BT)
            seconds[name], cpu_seconds[name] = time.perf_counter() - start, time.process_time() - cpu_start
        difference = max(difference, abs(losses["ours"] - losses["theirs"]) / losses["theirs"])
        if turn:  # the first one compiles
            by_clock.append((seconds["ours"], seconds["theirs"]))
            in_cpu_time.append((cpu_seconds["ours"], cpu_seconds["theirs"]))
        print(f"{vocab_size}, {precision}: turn {turn} of {repeats}", file=sys.stderr)
    return by_clock, in_cpu_time, difference


def ratio(turns: list[Turn]) -> str:
    """Theirs by ours: median, lower and upper quartile."""
    low, median, high = statistics.quantiles([theirs_s / ours_s for ours_s, theirs_s in turns], n=4)
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="training steps against transformers' Llama")
    parser.add_argument("--repeats", type=int, default=15, help="turns that count, at least 2")
    parser.add_argument("--precisions", nargs="+", choices=("bf16", "fp32"), default=["bf16", "fp32"])
    parser.add_argument("--vocabularies", nargs="+", type=int, choices=tuple(VOCABULARIES), default=list(VOCABULARIES))
    arguments = parser.parse_args()
    rows: list[list[object]] = []
    for precision, vocab_size in itertools.product(arguments.precisions, arguments.vocabularies):
        by_clock, in_cpu_time, difference = measure(vocab_size, precision, arguments.repeats)
        tokens = SEQUENCES * SEQ_LEN
        ours, theirs = (tokens / statistics.median(seconds) for seconds in zip(*by_clock, strict=True))
        case = f"{vocab_size:,}, {precision}"
        rows.append(
            [case, ours, theirs, ratio(by_clock), ratio(in_cpu_time), f"{VOCABULARIES[vocab_size]:.1f}", difference]
        )
    report(
        "training",
        (
            "vocabulary, precision",
            "ours, tokens/s",
            "transformers, tokens/s",
            "ratio",
            "ratio in CPU time",
            "wanted",
            "largest difference of a loss",
        ),
        rows,
        {"threads": torch.get_num_threads(), "torch": torch.__version__, "repeats": arguments.repeats},
    )


if __name__ == "__main__":
    main()
