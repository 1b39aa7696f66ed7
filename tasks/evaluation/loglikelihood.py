"""How probable a network finds a continuation of a context: sums of log-probabilities, and whether it is greedy.

All that multiple choice, minimal pairs, last words and perplexity ask of a network comes down to this. Requests that
follow each other and share a beginning are one forward pass (`tasks.evaluation.prefix_tree`), and the head is applied
to the positions alone whose next token is scored.

Shapes: B trees, T nodes of the largest one, N nodes with a token to score, R of a block, D model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from model.decoder import Decoder
from model.loss import LOGITS_PER_BLOCK
from model.rope import rotary_cos_sin
from tasks.evaluation.prefix_tree import PrefixTree, Request, prefix_trees
from tasks.tokenizer import END_OF_TEXT_ID

Pair = tuple[Sequence[int], Sequence[int]]
"""Tokens of the context, at least the end-of-text that begins a document, and of the continuation, at least one."""

BATCH_TOKENS = {"cpu": 2048, "cuda": 16_384}
"""Nodes in a batch, padding included. A CPU is twice as fast with activations that stay in its cache as with 16,384
(6 layers of width 256, ARC)."""

OnDone = Callable[[int], None]
"""Told how many further pairs have been scored."""


class Scorer(Protocol):
    """What scores pairs, wherever the network is."""

    @property
    def max_positions(self) -> int:
        """Tokens that the network reads at most."""
        ...

    @property
    def vocab_size(self) -> int:
        """Rows of the network's embedding."""
        ...

    def loglikelihoods(self, pairs: Sequence[Pair], *, on_done: OnDone | None = None) -> list[tuple[float, bool]]:
        """For each pair the log-probability of its continuation, nats, and whether each token of it is the most
        probable one. Raises ValueError where the network's logits are not finite."""
        ...


def read_and_scored(pair: Pair, max_positions: int) -> Request:
    """The tokens to read and those to score behind them: of a pair that is too long the last ones.

    The context is cut on the left, as lm-evaluation-harness' HFLM does it. Of a continuation that is longer than the
    network by itself, which HFLM refuses, the last `max_positions` tokens are scored.
    """
    context, continuation = pair
    assert context and continuation, "a pair has a context and a continuation"
    tokens = [*context, *continuation][-(max_positions + 1) :]
    return tokens[:-1], continuation[-max_positions:]


def is_truncated(pair: Pair, max_positions: int) -> bool:
    """Whether the network can't read all of the pair."""
    return len(pair[0]) + len(pair[1]) > max_positions + 1


class LocalScorer:
    """A network in this process."""

    def __init__(self, model: Decoder, *, batch_tokens: int | None = None, share_context: bool = True) -> None:
        """`batch_tokens` None is the device's `BATCH_TOKENS`; without `share_context` each pair is read by itself."""
        device = model.embedding.weight.device.type
        self.model = model
        self.batch_tokens = batch_tokens or BATCH_TOKENS.get(device, BATCH_TOKENS["cuda"])
        self.share_context = share_context

    @property
    def max_positions(self) -> int:
        return self.model.config.max_seq_len

    @property
    def vocab_size(self) -> int:
        return self.model.config.vocab_size

    def loglikelihoods(self, pairs: Sequence[Pair], *, on_done: OnDone | None = None) -> list[tuple[float, bool]]:
        """See `Scorer`. Sums are in float64 of log-probabilities in fp32, over all rows of the head, as in training."""
        requests = [read_and_scored(pair, self.max_positions) for pair in pairs]
        trees = list(prefix_trees(requests, max_nodes=2 * self.max_positions, share=self.share_context))
        # chains apart, because they need no mask; the largest first, so that what does not fit in memory shows at once
        trees.sort(key=lambda tree: (tree.is_chain, -len(tree.tokens)))
        sums, greedy = np.zeros(len(pairs)), np.ones(len(pairs), dtype=bool)
        for batch in _batches(trees, self.batch_tokens):
            with torch.inference_mode():
                self._score(batch, sums, greedy)
            if on_done is not None:
                on_done(len({number for tree in batch for number, _, _ in tree.scored}))
        if not np.isfinite(sums).all():
            raise ValueError("the model's logits are not finite: its training diverged; take an earlier checkpoint")
        return list(zip(sums.tolist(), greedy.tolist(), strict=True))

    def _score(self, batch: Sequence[PrefixTree], sums: np.ndarray, greedy: np.ndarray) -> None:
        """Add what the trees of a batch say to `sums`, and to `greedy` where it is not."""
        width = len(batch[0].tokens)
        scored = [
            (row * width + node, number, token) for row, tree in enumerate(batch) for number, node, token in tree.scored
        ]
        scored.sort()
        places, numbers, targets = (np.array(column) for column in zip(*scored, strict=True))
        nodes_N, node_of_target = np.unique(places, return_inverse=True)
        hidden_ND = self._hidden_states(batch, width).flatten(0, 1)[self._tensor(nodes_N)]
        rows = max(1, LOGITS_PER_BLOCK.get(hidden_ND.device.type, LOGITS_PER_BLOCK["cuda"]) // self.vocab_size)
        for first in range(0, len(nodes_N), rows):
            logits_RV = self.model.logits(hidden_ND[first : first + rows])
            start, end = np.searchsorted(node_of_target, (first, first + rows))
            at = self._tensor(node_of_target[start:end] - first), self._tensor(targets[start:end])
            log_probabilities = (logits_RV[at] - logits_RV.logsumexp(-1)[at[0]]).cpu().numpy()
            is_most_probable = (logits_RV.argmax(-1)[at[0]] == at[1]).cpu().numpy()
            np.add.at(sums, numbers[start:end], log_probabilities.astype(np.float64))
            np.logical_and.at(greedy, numbers[start:end], is_most_probable)

    def _hidden_states(self, batch: Sequence[PrefixTree], width: int) -> Tensor:
        """(B, T, D); padded on the right, where nobody looks."""
        tokens = np.full((len(batch), width), END_OF_TEXT_ID)
        for row, tree in enumerate(batch):
            tokens[row, : len(tree.tokens)] = tree.tokens
        tokens_BT = self._tensor(tokens)
        if all(tree.is_chain for tree in batch):
            return self.model.hidden_states(tokens_BT)
        config = self.model.config
        depths = np.zeros_like(tokens)
        looks = np.zeros((len(batch), width, width), dtype=bool)
        looks[:] = np.eye(width, dtype=bool)
        for row, tree in enumerate(batch):
            depths[row, : len(tree.depths)] = tree.depths
            for node, parent in enumerate(tree.parents):
                if parent >= 0:
                    looks[row, node] |= looks[row, parent]
        mask_B1TT = self._tensor(looks)[:, None]
        cos_sin = rotary_cos_sin(
            0, int(depths.max()) + 1, config.head_dim, config.rope_theta, tokens_BT.device, config.rope_scaling
        )
        cos_B1TC, sin_B1TC = (table[self._tensor(depths)][:, None] for table in cos_sin)
        x_BTD: Tensor = self.model.embedding(tokens_BT)
        for block in self.model.blocks:
            x_BTD = block(x_BTD, (cos_B1TC, sin_B1TC), mask_B1TT)
        hidden_BTD: Tensor = self.model.final_norm(x_BTD)
        return hidden_BTD

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.model.embedding.weight.device)


def _batches(trees: Sequence[PrefixTree], batch_tokens: int) -> Iterator[Sequence[PrefixTree]]:
    """Consecutive trees of one sort whose padded size is at most `batch_tokens`, or single ones."""
    first = 0
    for end in range(1, len(trees) + 1):
        width = len(trees[first].tokens)
        if (
            end == len(trees)
            or (end + 1 - first) * width > batch_tokens
            or trees[end].is_chain != trees[first].is_chain
        ):
            yield trees[first:end]
            first = end
