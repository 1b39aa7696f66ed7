"""Which tokens the network sees at which step: a pure function of the step, with no state to lose.

The training tokens are cut into windows of `seq_len` inputs; each window's targets reach one token further, into the
next window, so every token is predicted at most once an epoch: all but the first, and but those at the end that fill
no window. Each epoch visits the windows in its own
seeded order. A *sequence id* counts the sequences of the whole training run: id i is in epoch i // num_sequences, and
step s trains on the ids s * batch to (s + 1) * batch - 1, however many processes share the work and wherever training
was interrupted.

The order comes from a Feistel network on the window's number (Black and Rogaway 2002, "Ciphers with arbitrary finite
domains": walk the cycle until the number is in range). It needs no memory, and unlike a library's shuffle it can not
change with a library's version.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from tasks.pack import PackedDocument, Tokens, TokenShards

_ROUNDS = 6
_MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    """SplitMix64's output function (Steele, Lea and Flood 2014): 64 bits to 64 well-mixed bits."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def permuted(index: int, size: int, key: int) -> int:
    """The place of `index` in the order of 0 ... size - 1 that belongs to `key`: a bijection for every key and size."""
    assert 0 <= index < size
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    half_mask = (1 << half_bits) - 1
    value = index
    while True:
        left, right = value >> half_bits, value & half_mask
        for round_number in range(_ROUNDS):
            left, right = right, left ^ (_mix(_mix(key + round_number) ^ right) & half_mask)
        value = left << half_bits | right
        if value < size:
            return value


@dataclass(frozen=True, slots=True)
class Batch:
    """One process's share of a step. B sequences, T tokens each."""

    inputs_BT: Tokens
    targets_BT: Tokens  # the inputs, one token later
    sequence_ids: list[int]


def batch_hash(batch: Batch) -> str:
    """16 hexadecimal digits of the SHA-256 of a batch's tokens: two runs that saw the same data show the same hash."""
    sha256 = hashlib.sha256(batch.inputs_BT.astype("<i8").tobytes())
    sha256.update(batch.targets_BT[:, -1].astype("<i8").tobytes())
    return sha256.hexdigest()[:16]


class TokenLoader:
    """Batches of sequences from token shards, by step.

    Raises ValueError where the shards hold fewer sequences than one batch.
    """

    def __init__(self, shards: TokenShards, *, seq_len: int, global_batch_sequences: int, seed: int) -> None:
        self.shards = shards
        self.seq_len = seq_len
        self.global_batch_sequences = global_batch_sequences
        self.num_sequences = max(0, shards.num_tokens - 1) // seq_len
        """Sequences in an epoch."""
        self.num_leftover_tokens = max(0, shards.num_tokens - 1 - self.num_sequences * seq_len)
        """Tokens at the end of the corpus that fill no window, and are predicted in no epoch."""
        self._seed = seed
        if self.num_sequences < global_batch_sequences:
            raise ValueError(
                f"{shards.tokens_dir} holds {shards.num_tokens} training tokens, {self.num_sequences} sequences of "
                f"{seq_len}; one batch needs {global_batch_sequences}: use a larger corpus, a smaller "
                "global_batch_tokens or a smaller seq_len"
            )

    def start_of(self, sequence_id: int) -> int:
        """The position in the shards of the sequence's first input token."""
        epoch, index = divmod(sequence_id, self.num_sequences)
        return permuted(index, self.num_sequences, _mix(_mix(self._seed) ^ epoch)) * self.seq_len

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> Batch:
        """What process `rank` of `world_size` trains on at `step`, counted from 0: its consecutive share of the ids.

        Raises ValueError where the batch can not be shared equally.
        """
        if self.global_batch_sequences % world_size:
            raise ValueError(
                f"a batch of {self.global_batch_sequences} sequences can not be shared by {world_size} processes: "
                "choose global_batch_tokens as a multiple of seq_len times the number of processes"
            )
        share = self.global_batch_sequences // world_size
        first = step * self.global_batch_sequences + rank * share
        sequence_ids = list(range(first, first + share))
        starts = [self.start_of(sequence_id) for sequence_id in sequence_ids]
        windows = np.stack([self.shards.read(start, start + self.seq_len + 1) for start in starts])
        return Batch(windows[:, :-1], windows[:, 1:], sequence_ids)

    def documents_at(self, sequence_id: int) -> list[PackedDocument]:
        """The documents whose tokens the sequence reads or predicts: where to look when the loss jumps at a step."""
        start = self.start_of(sequence_id)
        return list(self.shards.documents_between(start, start + self.seq_len + 1))
