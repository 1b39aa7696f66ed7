"""How long a save keeps training waiting, beside one that waits for the files, and what the writing costs steps.

    python -m tests.benchmarks.bench_checkpoints [--models 10m 30m] [--rounds 7] [--folder DIR]

Per round and in turn: steps alone; a save that waits; a save that does not, and the steps while it is written. The
figures are medians over rounds, in wall time, because a save waits for the disk. On a GPU, where there is one, the
network is there. Loading is timed once, with every file compared with its hash.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from model.config import PRESETS, preset
from model.decoder import Decoder
from model.optimizer import build_adamw
from tasks.checkpoints import Checkpointer, CheckpointState
from tasks.recipes.pretraining import smoke
from tests.benchmarks.report import report

SEQ_LEN, SEQUENCES, VOCAB_SIZE = 128, 2, 8192


def seconds(call: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measured(name: str, rounds: int, folder: Path) -> list[object]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = preset(name, VOCAB_SIZE, SEQ_LEN)
    torch.manual_seed(0)
    model = Decoder(config).to(device)
    optimizer = build_adamw(model, learning_rate=1e-4)
    tokens_BT = torch.randint(0, VOCAB_SIZE, (SEQUENCES, SEQ_LEN + 1), device=device)

    def step() -> None:
        optimizer.zero_grad()
        model.loss(tokens_BT[:, :-1], tokens_BT[:, 1:]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def state(number: int) -> CheckpointState:
        return CheckpointState(
            step=number,
            num_steps=number,
            tokens_seen=number,
            loss=1.0,
            decoder=config.to_dict(),
            recipe=smoke(),
            tokenizer_sha256="",
            corpus_digest="",
            tokens_digests=("",),
        )

    steps_s, waits_s, blocks_s, beside_s, writes_s = [], [], [], [], []
    with Checkpointer(folder, model, optimizer, keep=1) as checkpoints:
        step()
        checkpoints.save(state(1), wait=True)  # makes the memory that later saves copy to
        for number in range(rounds):
            steps_s += [seconds(step) for _ in range(3)]
            waits_s.append(seconds(lambda at=2 * number + 2: checkpoints.save(state(at), wait=True)))
            began = time.perf_counter()
            blocks_s.append(seconds(lambda at=2 * number + 3: checkpoints.save(state(at))))
            while any(thread.name == "checkpoint" for thread in threading.enumerate()):
                beside_s.append(seconds(step))
            writes_s.append(time.perf_counter() - began)
            checkpoints.finish()
        newest = checkpoints.latest()
        assert newest is not None
        load_s = seconds(lambda: checkpoints.load(newest))
        megabytes = sum(file.stat().st_size for file in Path(newest).iterdir()) / 1e6
    medians = (statistics.median(each) for each in (waits_s, blocks_s, writes_s, steps_s, beside_s))
    waiting, blocked, written, alone, beside = medians
    return [
        name,
        f"{megabytes:.0f}",
        waiting * 1e3,
        blocked * 1e3,
        waiting / blocked,
        written * 1e3,
        alone * 1e3,
        beside * 1e3,
        load_s * 1e3,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=sorted(PRESETS), default=["10m", "30m"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder otherwise")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = [measured(name, options.rounds, Path(folder, name)) for name in options.models]
    report(
        "checkpoints",
        [
            "network",
            "MB",
            "waits, ms",
            "blocks, ms",
            "ratio",
            "written after, ms",
            "step, ms",
            "beside, ms",
            "load, ms",
        ],
        rows,
        {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu", "rounds": options.rounds},
    )


if __name__ == "__main__":
    main()
