"""Trees hold exactly what was put in, and share what they can."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.evaluation.prefix_tree import PrefixTree, Request, prefix_trees

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=9)


@st.composite
def requests(draw: st.DrawFn) -> list[Request]:
    found = []
    for read in draw(st.lists(TOKENS, min_size=1, max_size=12)):
        targets = draw(st.lists(st.integers(0, 3), min_size=1, max_size=len(read)))
        found.append((read, targets))
    return found


def path(tree: PrefixTree, node: int) -> list[int]:
    """The tokens from the beginning to a node."""
    tokens: list[int] = []
    while node >= 0:
        tokens.insert(0, tree.tokens[node])
        node = tree.parents[node]
    return tokens


@given(requests(), st.integers(1, 40), st.booleans())
def test_every_target_stands_behind_the_tokens_that_precede_it(asked: list[Request], max_nodes: int, share: bool):
    trees = list(prefix_trees(asked, max_nodes=max_nodes, share=share))
    found: dict[int, list[tuple[list[int], int]]] = {}
    for tree in trees:
        assert len({tuple(path(tree, node)) for node in range(len(tree.tokens))}) == len(tree.tokens)
        assert all(parent < node for node, parent in enumerate(tree.parents))
        assert [len(path(tree, node)) - 1 for node in range(len(tree.tokens))] == tree.depths
        for number, node, target in tree.scored:
            found.setdefault(number, []).append((path(tree, node), target))
    for number, (read, targets) in enumerate(asked):
        first = len(read) - len(targets)
        expected = [(list(read[: first + place + 1]), target) for place, target in enumerate(targets)]
        assert found[number] == expected
    assert sorted(found) == list(range(len(asked)))
    if not share:
        assert len(trees) == len(asked)
    for tree in trees:
        requests_of_tree = {number for number, _, _ in tree.scored}
        assert len(tree.tokens) <= max_nodes or len(requests_of_tree) == 1


def test_choices_of_a_question_are_one_tree_and_another_question_is_another():
    question, other = [1, 10, 11, 12, 13], [1, 20, 21, 22, 23]
    asked = [([*question, 30], [30, 31]), ([*question, 30], [30, 32]), ([*question, 40], [40, 41]), (other, [30])]
    first, second = prefix_trees(asked, max_nodes=99)
    assert first.tokens == [*question, 30, 40]
    assert first.parents == [-1, 0, 1, 2, 3, 4, 4]
    assert first.depths == [0, 1, 2, 3, 4, 5, 5]
    assert not first.is_chain
    assert second.tokens == other
    assert second.is_chain


def test_a_third_of_the_tokens_has_to_be_shared():
    tree = ([1, 2, 3], [9])
    assert len(list(prefix_trees([tree, ([1, 5, 6], [9])], max_nodes=99))) == 1
    assert len(list(prefix_trees([tree, ([1, 5, 6, 7], [9])], max_nodes=99))) == 2


def test_a_full_tree_takes_no_more():
    asked = [([1, 2, 3], [9]), ([1, 2, 4, 5], [9])]
    assert [tree.tokens for tree in prefix_trees(asked, max_nodes=5)] == [[1, 2, 3, 4, 5]]
    assert [tree.tokens for tree in prefix_trees(asked, max_nodes=4)] == [[1, 2, 3], [1, 2, 4, 5]]


def test_nothing_is_no_tree():
    assert list(prefix_trees([], max_nodes=9)) == []
