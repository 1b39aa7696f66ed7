"""What torch's allocator hands out during a step, byte by byte, as CUDA's counters would tell it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from model.config import DecoderConfig
from model.decoder import Decoder
from model.optimizer import OptimizerKind, build_optimizer
from model.parallel import Parallelism, parallelize, without_exchange


def peak_of(run: Callable[[], None]) -> int:
    """The most that was held at once during `run` beyond what was held before: every allocation on the CPU counts,
    those inside operators and compiled code too.

    In a thread of its own: what the loss keeps from step to step it keeps by thread.
    """
    found: list[int] = []

    def profiled() -> None:
        gc.collect()  # what others have left must not be given back meanwhile
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            run()
        assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
        events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        held = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        found.append(peak)

    thread = threading.Thread(target=profiled)
    thread.start()
    thread.join()
    (peak,) = found
    return peak


class Trained:
    """A network in this process's part of a layout, and steps as the training loop takes them."""

    def __init__(
        self,
        config: DecoderConfig,
        layout: Parallelism,
        *,
        optimizer: OptimizerKind = "adamw",
        sequences: int,
        num_microbatches: int = 1,
        document_mask: bool = False,
    ) -> None:
        torch.manual_seed(0)
        self.layout, self.num_microbatches = layout, num_microbatches
        self.model = parallelize(Decoder(config), layout, layout.mesh("cpu"), "cpu")
        self.optimizer = build_optimizer(optimizer, self.model, learning_rate=1e-4)
        self.tokens_BT = torch.randint(0, config.vocab_size, (sequences, config.max_seq_len + 1))
        ids_BT = (torch.arange(config.max_seq_len) // 16).expand(sequences, -1)
        self.ids_BT = ids_BT.int().contiguous() if document_mask else None

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        for _ in range(self.num_microbatches - 1):
            with without_exchange(self.model):
                self._backward()
        self._backward()
        self.optimizer.step()

    def _backward(self) -> None:
        tokens_BT = self.tokens_BT
        with self.layout.autocast("cpu"):
            loss = self.model.loss(tokens_BT[:, :-1], tokens_BT[:, 1:], reduction="sum", document_ids_BT=self.ids_BT)
            loss = loss / tokens_BT[:, 1:].numel()
        loss.backward()

    def evaluate(self) -> None:
        with torch.no_grad(), self.layout.autocast("cpu"):
            self.model.loss(self.tokens_BT[:, :-1], self.tokens_BT[:, 1:], reduction="sum")


def peak_of_training(config: DecoderConfig, layout: Parallelism, *, num_steps: int = 2, **options: object) -> int:
    """From before the network is built: the second step is the first one with the optimizer's state."""

    def run() -> None:
        trained = Trained(config, layout, **options)  # type: ignore[arg-type]
        for _ in range(num_steps):
            trained.step()

    return peak_of(run)
