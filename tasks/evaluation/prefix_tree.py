"""Requests with a common beginning as one tree of tokens: what they share is computed once.

A request is tokens to read and tokens to score, each of which follows one that was read. The choices of a question
share the question, the two sentences of a minimal pair share their first words. A node of the tree is a token with all
that precedes it; a network that lets it attend to itself and its ancestors, at the position of its depth, gives it the
hidden state that it would have in any request that leads through it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

Request = tuple[Sequence[int], Sequence[int]]
"""Tokens that are read, and tokens that are scored: the last of them follows the last that is read, and so on back."""

MIN_SHARED = 1 / 3
"""Of a request's tokens, for it to join a tree: attention goes over the whole tree, so that too little costs more."""


@dataclass(slots=True)
class PrefixTree:
    """Nodes in an order in which each follows its parent."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)  # -1 where a request begins
    depths: list[int] = field(default_factory=list)  # tokens before it: its position
    scored: list[tuple[int, int, int]] = field(default_factory=list)  # request, node, token to score behind it
    children: list[dict[int, int]] = field(default_factory=list)  # by token
    roots: dict[int, int] = field(default_factory=dict)

    @property
    def is_chain(self) -> bool:
        """Whether no node has two children: plain causal attention does."""
        return all(parent == node - 1 for node, parent in enumerate(self.parents))

    def num_shared(self, read: Sequence[int]) -> int:
        """How many of these tokens the tree holds already."""
        level = self.roots
        for number, token in enumerate(read):
            node = level.get(token)
            if node is None:
                return number
            level = self.children[node]
        return len(read)

    def add(self, number: int, request: Request) -> None:
        """Put in the request, under its number."""
        read, targets = request
        assert 0 < len(targets) <= len(read), "something is scored, and each behind a token that is read"
        path: list[int] = []
        level, parent = self.roots, -1
        for depth, token in enumerate(read):
            node = level.get(token)
            if node is None:
                node = level[token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(parent)
                self.depths.append(depth)
                self.children.append({})
            path.append(node)
            level, parent = self.children[node], node
        nodes = path[len(read) - len(targets) :]
        self.scored += [(number, node, target) for node, target in zip(nodes, targets, strict=True)]


def prefix_trees(requests: Sequence[Request], *, max_nodes: int, share: bool = True) -> Iterator[PrefixTree]:
    """Trees of consecutive requests, in their order; without `share` each request is its own.

    One joins the tree of those before it where that holds a share of its tokens and has room for the others.
    """
    tree = PrefixTree()
    for number, request in enumerate(requests):
        read = request[0]
        if tree.tokens:
            shared = tree.num_shared(read) if share else 0
            if shared < MIN_SHARED * len(read) or len(tree.tokens) + len(read) - shared > max_nodes or not share:
                yield tree
                tree = PrefixTree()
        tree.add(number, request)
    if tree.tokens:
        yield tree
