"""The texts by what they are for: three sides of the labelled ones, two halves of the background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.classifiers.labelled import Example, Gathered, LabelledSource, gather
from tasks.classifiers.measured import HeldOut
from tasks.classifiers.split import Side, cluster_keys, clusters, side, tunes

MIN_SITES = 20
"""Of the background, for its sites to be divided rather than its documents: of a few sites, one half may have none, or
one kind alone."""


@dataclass(frozen=True)
class Parts:
    """The texts by what they are for."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    tuning: tuple[Example, ...]
    """Background on which the threshold is chosen."""
    reporting: tuple[Example, ...]
    """Background on which false alarms are counted."""
    num_left_out: int
    """Background documents that resemble a labelled text, of whichever side: one that resembles a test text would
    choose the threshold by which that is judged, or count a positive text's score as a false alarm."""
    num_sites: int
    """Of the background, each in one half; 0 where documents are divided one by one."""

    @property
    def held_out(self) -> HeldOut:
        """What nothing is chosen by."""
        return HeldOut(
            texts=tuple(example.text for example in self.test),
            labels=tuple(example.positive for example in self.test),
            sources=tuple(example.source for example in self.test),
            background=tuple(document.text for document in self.reporting),
            background_sources=tuple(document.source for document in self.reporting),
        )

    def sizes(self) -> dict[str, int]:
        """How many texts each part has, by its name in the card."""
        return {
            "trained on": len(self.train),
            "validation: settings and calibration": len(self.validation),
            "test": len(self.test),
            "background, threshold": len(self.tuning),
            "background, false alarms": len(self.reporting),
            "background left out, because it resembles labelled texts": self.num_left_out,
            "sites of the background, each in one half (0: pages of one site are in both)": self.num_sites,
        }


def divide(gathered: Gathered) -> Parts:
    """Labelled texts on three sides, the background in two halves; what resembles each other, rows of one group, and
    background of one site where there are `MIN_SITES`, stay together.

    Raises ValueError where a side has no text of a class, or a half of the background none at all.
    """
    everything = (*gathered.examples, *gathered.background)
    lines = [example.line for example in everything]
    sites = {document.group for document in gathered.background} - {""}
    by_site = len(sites) >= MIN_SITES
    groups = [example.group for example in gathered.examples]
    groups += [f"site\0{document.group}" if by_site and document.group else "" for document in gathered.background]
    keys = cluster_keys(lines, clusters(lines, groups))
    of_examples = keys[: len(gathered.examples)]
    sides = _sides(gathered.examples, of_examples)
    of_labelled = set(of_examples)
    halves: dict[bool, list[Example]] = {True: [], False: []}
    num_left_out = 0
    for document, key in zip(gathered.background, keys[len(gathered.examples) :], strict=True):
        if key in of_labelled:
            num_left_out += 1
        else:
            halves[tunes(key)].append(document)
    if not (halves[True] and halves[False]):
        raise ValueError(
            f"{len(gathered.background):,} distinct background documents, of which {num_left_out:,} resemble"
            " labelled texts, do not fill both halves: give more ordinary documents, other than the labelled"
        )
    return Parts(
        tuple(sides["train"]),
        tuple(sides["validation"]),
        tuple(sides["test"]),
        tuple(halves[True]),
        tuple(halves[False]),
        num_left_out,
        len(sites) if by_site else 0,
    )


def check_labelled(labelled: Sequence[LabelledSource], normaliser: str) -> tuple[Gathered, dict[str, int]]:
    """Read the labelled texts and divide them, as the training will: they, and how many are on each side.

    Raises ValueError as `gather` and `divide` do, but for the background, which may still have to be extracted, and
    may bring two texts together that resemble one document.
    """
    gathered = gather(labelled, (), normaliser)
    lines = [example.line for example in gathered.examples]
    keys = cluster_keys(lines, clusters(lines, [example.group for example in gathered.examples]))
    return gathered, {name: len(examples) for name, examples in _sides(gathered.examples, keys).items()}


def _sides(examples: Sequence[Example], keys: Sequence[bytes]) -> dict[Side, list[Example]]:
    sides: dict[Side, list[Example]] = {"train": [], "validation": [], "test": []}
    for example, key in zip(examples, keys, strict=True):
        sides[side(key)].append(example)
    for name, of_side in sides.items():
        num_positives = sum(example.positive for example in of_side)
        if num_positives in (0, len(of_side)):
            raise ValueError(
                f"the {name} side has {num_positives:,} positive of {len(of_side):,} texts, and both classes are"
                " needed: give more labelled texts (tens of each class that neither resemble each other nor are of one"
                " group)"
            )
    return sides
