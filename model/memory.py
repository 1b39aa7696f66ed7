"""How much memory a training step takes, told from the shapes before anything is built.

The figures are bytes that torch's allocator has handed out in one process, which is what `torch.cuda.
max_memory_allocated` counts: not what the process itself, a CUDA context or fragmentation take.

Weights, gradients and the optimizer's state follow from the parameters and the layout (`model.parallel`). What the
forward pass keeps for the backward pass is counted by token and layer, from what autograd saves of `model.decoder`;
what `torch.compile` saves instead was read off its graphs (torch 2.13), whose partitioner recomputes what is cheap.
A step is then gone through at the four moments that may be its peak: in the loss, in the loss' backward pass, at the
beginning of the blocks' backward pass, and in the optimizer.

Shapes: N tokens of a microbatch, T sequence, D model, H query heads, K key/value heads, C head dimension, F
feed-forward, V vocabulary, L layers; t one process's share of N under tensor parallelism.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from model.config import DecoderConfig, num_parameters
from model.loss import HEAD_PER_PART, LOGITS_PER_BLOCK, LOGITS_PER_SLICE
from model.optimizer import OptimizerKind
from model.parallel import Parallelism

_FP32, _BF16, _INT64 = 4, 2, 8

_FINAL_NORM_BACKWARD = 16
"""Bytes a token and unit of D: four fp32 tensors, while everything else that was saved is still there."""

_MUON_COPIES = 3
"""Of the largest matrix, in fp32, at once: its momentum with the gradient, and the iteration's in bf16 and its square
(Jordan et al. 2024), one matrix after the other."""


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """What one process holds at the peak of a step, bytes; the parts add up to `peak_bytes`."""

    weights_bytes: int  # with whole blocks that are gathered for use, and copies in bf16
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int  # saved for the backward pass, and what that needs beside them
    loss_bytes: int  # logits and gradients of the head while it is computed

    @property
    def peak_bytes(self) -> int:
        return sum(asdict(self).values())

    def parts(self) -> dict[str, int]:
        """By name, in the order of the fields."""
        return {name.removesuffix("_bytes"): value for name, value in asdict(self).items()}


def device_memory(
    config: DecoderConfig,
    *,
    optimizer: OptimizerKind,
    microbatch_sequences: int,
    seq_len: int,
    parallelism: Parallelism,
    device_type: str,
    num_microbatches: int = 1,
    document_mask: bool = False,
) -> DeviceMemory:
    """The peak of a whole step (microbatches, loss, optimizer) on one process of the layout.

    `device_type` is "cpu" or "cuda"; `num_microbatches` are those of one process's share of a batch: from the second on
    a backward pass adds to gradients that are there already.
    """
    assert microbatch_sequences >= 1 and seq_len >= 1 and num_microbatches >= 1
    step = _Step(
        config,
        optimizer,
        microbatch_sequences * seq_len,
        seq_len,
        parallelism,
        device_type,
        num_microbatches,
        document_mask,
    )
    return max(step.moments(), key=lambda memory: memory.peak_bytes)


def evaluation_memory(
    config: DecoderConfig,
    *,
    optimizer: OptimizerKind,
    batch_tokens: int,
    parallelism: Parallelism,
    device_type: str,
    num_microbatches: int = 1,
) -> DeviceMemory:
    """The peak of a pass over held-out text between two steps, uncompiled, with `batch_tokens` at once.

    Gradients of the step before are still there. On a CPU, where microbatches are small, this can be more than a step.
    """
    layout = replace(parallelism, compile=False)
    step = _Step(config, optimizer, batch_tokens, config.max_seq_len, layout, device_type, num_microbatches, False)
    return step.evaluation()


def optimizer_state_bytes(config: DecoderConfig, optimizer: OptimizerKind) -> int:
    """Of all processes together: two moments in fp32 for AdamW, one for the matrices of blocks under Muon."""
    total = num_parameters(config)
    return _FP32 * (2 * total - (_block_matrices(config) * config.num_layers if optimizer == "muon" else 0))


def checkpoint_bytes(config: DecoderConfig, optimizer: OptimizerKind) -> int:
    """Of weights and optimizer state, all processes together."""
    return _FP32 * num_parameters(config) + optimizer_state_bytes(config, optimizer)


def _block_matrices(config: DecoderConfig) -> int:
    """Parameters of one block's matrices."""
    key_and_value = 2 * config.num_kv_heads * config.head_dim
    return config.d_model * (2 * config.d_model + key_and_value + 3 * config.d_ff)


@dataclass(frozen=True)
class _Step:
    """One process's part of a step."""

    config: DecoderConfig
    optimizer: OptimizerKind
    num_tokens: int  # of a microbatch
    seq_len: int
    parallelism: Parallelism
    device_type: str
    num_microbatches: int
    document_mask: bool

    def moments(self) -> list[DeviceMemory]:
        """What is held at each moment that may be the peak of the last microbatch."""
        config, own_tokens = self.config, self._own_tokens
        hidden = own_tokens * config.d_model * _FP32
        head = config.vocab_size * config.d_model * _FP32
        saved = self._saved_bytes()
        weights, optimizer = self._weights_bytes(), self._optimizer_bytes()
        before, after = self._gradients_bytes(before_backward=True), self._gradients_bytes(before_backward=False)
        final_norm = own_tokens * config.d_model * _FINAL_NORM_BACKWARD
        # in the backward pass of the last block: the residual stream's gradient, and what is computed again
        last_block = max(final_norm, hidden + self._recomputed_bytes() + self._exchanged_bytes())
        buffers = self._loss_buffers_bytes()
        kept = buffers if self.device_type == "cpu" else 0

        def at(gradients: int, activations: int, loss: int, *, copies: int = 0) -> DeviceMemory:
            return DeviceMemory(
                weights_bytes=weights - copies,
                gradients_bytes=gradients,
                optimizer_bytes=optimizer,
                activations_bytes=activations,
                loss_bytes=loss,
            )

        return [
            at(before, saved + hidden, buffers + self._loss_forward_bytes()),
            at(before, saved, kept + 2 * (head + hidden)),
            at(before, saved + last_block, kept + head + hidden, copies=self._dropped_copies_bytes()),
            # the embedding's gradient meets the head's, which waits for it where they are one matrix
            at(after, hidden, kept + head),
            at(after, self._optimizer_working_bytes(), kept),
        ]

    @property
    def _own_tokens(self) -> int:
        """Positions of the residual stream: split over a tensor group."""
        return -(-self.num_tokens // self.parallelism.tensor)

    @property
    def _shards(self) -> int:
        """Processes that weights, gradients and optimizer state are divided over, along "data"."""
        return self.parallelism.data if self.parallelism.sharded else 1

    def _own_parameters(self) -> tuple[int, int]:
        """Parameters of the blocks' matrices, and all others, that a process has: before sharding over "data"."""
        matrices = self.config.num_layers * _block_matrices(self.config)
        return matrices // self.parallelism.tensor, num_parameters(self.config) - matrices

    def _weights_bytes(self) -> int:
        matrices, others = self._own_parameters()
        own = (matrices + others) // self._shards * _FP32
        layers, layout = self.config.num_layers, self.parallelism
        size = _BF16 if layout.bf16 else _FP32
        if layout.world_size == 1:
            recomputed = layout.activation_checkpointing == "block" and layout.compile
            return own + (matrices * _BF16 if layout.bf16 and not recomputed else 0)
        if not layout.sharded:
            return own + matrices * size  # FSDP2 works on a copy
        # Blocks are gathered, the next one while one is in use. The head stays, and an embedding that is the head's.
        embedding = self.config.vocab_size * self.config.d_model
        given_away = embedding if not self.config.tie_embeddings and layout.tensor == 1 else 0
        return own + min(2, layers) * matrices // layers * size + (others - given_away) * _FP32

    def _dropped_copies_bytes(self) -> int:
        """Of weights in bf16: those of other blocks, where each is computed again under an autocast of its own."""
        layout = self.parallelism
        if layout.world_size > 1 or layout.activation_checkpointing == "none" or layout.compile or not layout.bf16:
            return 0
        return (self.config.num_layers - 1) * _block_matrices(self.config) * _BF16

    def _gradients_bytes(self, *, before_backward: bool) -> int:
        if before_backward and self.num_microbatches == 1:
            return 0
        matrices, others = self._own_parameters()
        if self.num_microbatches > 1:  # whole until they are exchanged with the last microbatch's
            return (matrices + others) * _FP32
        return (matrices + others) // self._shards * _FP32

    def _optimizer_bytes(self) -> int:
        matrices, others = self._own_parameters()
        state = 2 * others + (1 if self.optimizer == "muon" else 2) * matrices
        return state // self._shards * _FP32

    def _optimizer_working_bytes(self) -> int:
        if self.optimizer == "adamw":  # one kernel, in place
            return 0
        config = self.config
        return _MUON_COPIES * config.d_model * max(config.d_ff, config.d_model) * _FP32

    def _saved_bytes(self) -> int:
        """For the backward pass, of all layers, the embedding and the final norm."""
        config = self.config
        ends = self._own_tokens * (self._norm_bytes() + _FP32) + 2 * self.num_tokens * _INT64
        if self.parallelism.activation_checkpointing == "block":
            return config.num_layers * self._own_tokens * config.d_model * _FP32 + ends + self._mask_bytes()
        return config.num_layers * self._block_bytes() + ends + self._mask_bytes()

    def _recomputed_bytes(self) -> int:
        return self._block_bytes() if self.parallelism.activation_checkpointing == "block" else 0

    def _exchanged_bytes(self) -> int:
        """A block's gradients, whole, and the buffer that they are exchanged in."""
        if self.parallelism.world_size == 1:
            return 0
        return 2 * self._own_parameters()[0] // self.config.num_layers * _FP32

    def _mask_bytes(self) -> int:
        """The dense mask of packed documents, one byte for each pair of positions; on a GPU there is none."""
        return self.num_tokens * self.seq_len if self.document_mask and self.device_type == "cpu" else 0

    def _norm_bytes(self) -> int:
        """Of a norm's input, fp32, a token: eager on a CPU the normalised values are saved as well as the values."""
        both = self.device_type == "cpu" and not self.parallelism.compile
        return self.config.d_model * _FP32 * (2 if both else 1)

    def _block_bytes(self) -> int:
        """What one block saves. What lies between gathering and scattering is divided by heads and columns."""
        config, compiled = self.config, self.parallelism.compile
        size = _BF16 if self.parallelism.bf16 else _FP32
        tensor = self.parallelism.tensor
        width, key_value = config.d_model, config.num_kv_heads * config.head_dim
        positions = 2 * (self._norm_bytes() + _FP32)  # both norms' inputs, and what they divided by
        # inputs of the products: under eager autocast each product casts its input for itself
        copies = 5 if self.parallelism.bf16 and not compiled else 2
        inside = copies * tensor * width * size
        # query, result, and the result with its heads side by side; compiled in bf16 the last two are one
        results = 2 if compiled and self.parallelism.bf16 else 3
        inside += results * width * size + 2 * key_value * size + config.num_heads * _FP32
        # gate, its SiLU, up and their product; compiled, SiLU is computed again
        inside += (3 if compiled else 4) * config.d_ff * size
        if config.qk_norm:
            inside += (width + key_value) * (size if compiled else self._norm_bytes() // width)
            inside += (config.num_heads + config.num_kv_heads) * _FP32
        if self.document_mask and self.device_type == "cpu":
            # SDPA turns the mask into numbers, for each layer anew, and keys and values are repeated for each head
            inside += self.seq_len * size * tensor + 2 * (width - key_value) * size
        return self._own_tokens * positions + self.num_tokens * inside // tensor

    def evaluation(self) -> DeviceMemory:
        """In the widest block, or in the loss."""
        config, own_tokens = self.config, self._own_tokens
        size = _BF16 if self.parallelism.bf16 else _FP32
        hidden = own_tokens * config.d_model * _FP32
        # residual stream before and after attention and its norm; SiLU of the gate, up, and their product
        block = 3 * hidden + 3 * self.num_tokens * config.d_ff * size // self.parallelism.tensor
        buffers = self._loss_buffers_bytes()
        loss = buffers + self._loss_forward_bytes(gradients=False)
        in_loss = hidden + loss > block
        return DeviceMemory(
            weights_bytes=self._weights_bytes(),
            gradients_bytes=self._gradients_bytes(before_backward=False),
            optimizer_bytes=self._optimizer_bytes(),
            activations_bytes=hidden if in_loss else block,
            loss_bytes=loss if in_loss else 0,
        )

    def _block_rows(self) -> int:
        """Tokens whose logits are there at once."""
        return min(self._own_tokens, _rows(LOGITS_PER_BLOCK, self.device_type, self.config.vocab_size))

    def _loss_buffers_bytes(self) -> int:
        """Logits and copies: on a CPU kept from step to step, elsewhere there while the loss is computed."""
        vocab_size, bf16 = self.config.vocab_size, self.parallelism.bf16
        rows = self._block_rows()
        logits = rows * vocab_size * (_BF16 if bf16 else _FP32)
        head = vocab_size * self.config.d_model * _BF16 if bf16 else 0
        if self.device_type == "cpu":
            slice_rows = min(rows, _rows(LOGITS_PER_SLICE, "cpu", vocab_size))
            return logits + head + (slice_rows * vocab_size * _FP32 if bf16 else 0)
        # with the next block's logits beside the last one's, or with log-probabilities and what they are computed from
        in_fp32 = rows * vocab_size * _FP32 * (2 if bf16 else 1)
        return logits + head + max(logits if rows < self._own_tokens else 0, in_fp32)

    def _loss_forward_bytes(self, *, gradients: bool = True) -> int:
        """Beside the buffers: the gradients, and what is multiplied into them."""
        d_model, bf16 = self.config.d_model, self.parallelism.bf16
        block = self._block_rows() * d_model
        if not gradients:
            return block * _BF16 if bf16 else 0
        head = self.config.vocab_size * d_model
        part = min(head, _rows(HEAD_PER_PART, self.device_type, d_model) * d_model) * _BF16 if bf16 else 0
        return (head + self._own_tokens * d_model + block) * _FP32 + (block * _BF16 if bf16 else 0) + part


def _rows(limits: dict[str, int], device_type: str, vocab_size: int) -> int:
    """As in `model.loss`."""
    return max(1, limits.get(device_type, limits["cuda"]) // vocab_size)
