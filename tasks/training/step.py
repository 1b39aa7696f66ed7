"""One optimizer step on one batch, by one process or several: gradients first, and then, or not, the weights.

Gradients of all microbatches are summed, averaged over the processes that see different sequences, and clipped. Loss
and gradient norm are known, and the same everywhere, before anything moves.

Shapes: B sequences, T tokens.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from model.decoder import Decoder
from model.parallel import DATA, Parallelism, clip_grad_norm, forget_gathered, without_exchange
from model.scaling import HyperParameters
from tasks.loader import Batch, batch_digest, combined_hash
from tasks.spike_documents import token_losses
from tasks.training.network import as_written
from tasks.training.timings import MicrobatchClock, StepClock, exchange_s


@dataclass(frozen=True, slots=True)
class StepFigures:
    """What is known of a step before the weights move. The same in every process."""

    loss: float  # mean over the whole batch, nats per token
    z_loss: float  # what is trained on beyond that
    grad_norm: float  # before clipping
    batch_hash: str
    stop: bool  # whether any process was told to stop


class Stepper:
    """The network and its optimizer in this process, and how it works with the others."""

    def __init__(
        self,
        model: Decoder,
        optimizer: torch.optim.Optimizer,
        *,
        parallelism: Parallelism,
        mesh: DeviceMesh | None,
        device: torch.device,
        hyper_parameters: HyperParameters,
        microbatch_sequences: int,
        document_mask: bool,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self._parallelism, self._mesh, self._device = parallelism, mesh, device
        self._hyper = hyper_parameters
        self._microbatch_sequences, self._document_mask = microbatch_sequences, document_mask

    def gradients(self, batch: Batch, clock: StepClock, *, stop: bool = False) -> StepFigures:
        """Clipped gradients of the whole batch, of which `batch` is this process' share; no weight moves."""
        self.optimizer.zero_grad(set_to_none=True)
        microbatches = MicrobatchClock(self._device)
        trained, nats = self._backward(batch, microbatches)
        own_loss, own_z = float(nats), float(trained - nats)  # a GPU is waited for here
        clock.rebook(exchange_s(microbatches.seconds()) if self._mesh else 0.0, source="compute", to="communication")
        with clock.part("communication"):
            loss, z_loss, stopped = self._averaged(own_loss, own_z, stop)
            digest = self._summed_over_data(batch_digest(batch))
        grad_norm = clip_grad_norm(self.model.parameters(), self._hyper.max_grad_norm)
        return StepFigures(loss, z_loss, grad_norm, combined_hash(digest), stopped)

    def take(self, learning_rate: float) -> None:
        """Move the weights by the gradients there are."""
        forget_gathered(self.model)  # `batch_losses` looks at them first
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()

    def _tensors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Inputs, targets and, for the attention's mask, document ids on the device; each (B, T)."""
        ids = torch.from_numpy(batch.document_ids_BT).to(self._device) if self._document_mask else None
        inputs, targets = (torch.from_numpy(each).to(self._device) for each in (batch.inputs_BT, batch.targets_BT))
        return inputs, targets, ids

    def _backward(self, batch: Batch, clock: MicrobatchClock) -> tuple[Tensor, Tensor]:
        """Gradients, microbatch by microbatch; the mean over this process' tokens of what is trained on, and of the
        cross entropy alone."""
        inputs_BT, targets_BT, ids_BT = self._tensors(batch)
        size = self._microbatch_sequences
        firsts = range(0, len(inputs_BT), size)
        totals = torch.zeros(2, device=self._device)
        clock.mark()
        for first in firsts:
            rows = slice(first, first + size)
            weight = len(inputs_BT[rows]) / len(inputs_BT)
            with without_exchange(self.model) if first != firsts[-1] else nullcontext():
                with self._parallelism.autocast(self._device.type):
                    trained, nats = self.model(
                        inputs_BT[rows],
                        targets_BT=targets_BT[rows],
                        z_loss=self._hyper.z_loss,
                        document_ids_BT=None if ids_BT is None else ids_BT[rows],
                    )
                # a factor of 1 would cost a pass over the head's gradient (`model.loss`)
                (trained if weight == 1 else trained * weight).backward()
            totals += torch.stack((trained.detach(), nats.detach())) * weight
            clock.mark()
        return totals[0], totals[1]

    def _averaged(self, loss: float, z_loss: float, stop: bool) -> tuple[float, float, bool]:
        """Over all processes, which hold equal shares; and whether any of them was told to stop."""
        if self._mesh is None:
            return loss, z_loss, stop
        values = torch.tensor([loss, z_loss, float(stop)], dtype=torch.float64, device=self._device)
        dist.all_reduce(values)
        size = self._parallelism.world_size
        return float(values[0]) / size, float(values[1]) / size, bool(values[2] > 0)

    def _summed_over_data(self, digest: int) -> int:
        if self._mesh is None:
            return digest
        total = torch.tensor(digest, dtype=torch.int64, device=self._device)
        dist.all_reduce(total, group=self._mesh.get_group(DATA))
        return int(total)

    def batch_losses(self, batch: Batch) -> Tensor:
        """(B, T) nats of every target of the whole batch, on the CPU; all processes must call it, before `take`."""
        inputs_BT, targets_BT, ids_BT = self._tensors(batch)
        with as_written(self._parallelism), self._parallelism.autocast(self._device.type):
            own_BT = token_losses(
                self.model,
                inputs_BT,
                targets_BT,
                document_ids_BT=ids_BT,
                microbatch_sequences=self._microbatch_sequences,
            )
        if self._mesh is None:
            return own_BT
        shares = [torch.empty_like(own_BT, device=self._device) for _ in range(self._parallelism.data)]
        dist.all_gather(shares, own_BT.to(self._device), group=self._mesh.get_group(DATA))
        return torch.cat(shares).cpu()
