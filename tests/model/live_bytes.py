"""What torch's allocator hands out during a step, byte by byte, as CUDA's counters would tell it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from model.config import DecoderConfig
from model.decoder import Decoder
from model.optimizer import OptimizerKind, build_optimizer
from model.parallel import Parallelism, parallelize, without_exchange


def peak_beyond(run: Callable[[], None]) -> int:
    """The most that was held at once during `run` beyond what was held before: every allocation on the CPU counts,
    those inside operators and compiled code too."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


class TrainedNetwork:
    """A network in this process's part of a layout that has taken a step, so that its optimizer's state is there."""

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
        self.config, self.layout = config, layout
        self.model = parallelize(Decoder(config), layout, layout.mesh("cpu"), "cpu")
        self.optimizer = build_optimizer(optimizer, self.model, learning_rate=1e-4)
        self.tokens_BT = torch.randint(0, config.vocab_size, (sequences, config.max_seq_len + 1))
        ids_BT = (torch.arange(config.max_seq_len) // 16).expand(sequences, -1)
        self.ids_BT = ids_BT.int().contiguous() if document_mask else None
        self.num_microbatches = num_microbatches
        self.step()

    def step(self) -> None:
        for number in range(self.num_microbatches):
            if number == self.num_microbatches - 1:
                self._backward()
            else:
                with without_exchange(self.model):
                    self._backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _backward(self) -> None:
        tokens_BT = self.tokens_BT.clone()  # the loop's batches are not there before the step either
        with self.layout.autocast("cpu"):
            loss = self.model.loss(tokens_BT[:, :-1], tokens_BT[:, 1:], document_ids_BT=self.ids_BT)
        loss.backward()

    def evaluate(self) -> None:
        with torch.no_grad(), self.layout.autocast("cpu"):
            self.model.loss(self.tokens_BT[:, :-1], self.tokens_BT[:, 1:], reduction="sum")

    def held_bytes(self) -> int:
        """Of weights and optimizer state, this process's share."""
        states = [value for state in self.optimizer.state.values() for value in state.values()]
        return sum(_own_bytes(tensor) for tensor in [*self.model.parameters(), *states])


def _own_bytes(value: object) -> int:
    local = getattr(value, "to_local", lambda: value)()
    return local.nbytes if isinstance(local, torch.Tensor) else 0
