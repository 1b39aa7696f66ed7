"""Near-duplicates planted in real pages: what share is found at which true similarity, against the theoretical S-curve.

    python -m tests.benchmarks.s_curve s_curve.png [--pairs 200]

Each bin has pairs of a page and a copy of it in which words were replaced or deleted until the true Jaccard similarity
of the two sets of shingles is the bin's, within .01 above it. Every bin goes through the whole chain of deduplication,
from index to decisions, without verification and with it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tasks.dedup.config import Deduplication
from tasks.dedup.signature import shingles, words
from tests.tasks.dedup.chain import Page, deduplicate

WEB_PAGES = Path(__file__).resolve().parents[2] / "../shared/data/web/pages.gold.jsonl.gz"
SIMILARITIES = [round(0.4 + 0.05 * step, 2) for step in range(13)]  # .4 to 1
VERIFIED = Deduplication()
UNVERIFIED = Deduplication(min_jaccard=0)
MIN_WORDS, MAX_WORDS = 150, 600
"""Of a page: enough that one shingle is less than .01 of the similarity; no more than the measurement needs."""

_THEORY, _UNVERIFIED, _VERIFIED = "#5a7d4e", "#2a6fb0", "#c8501e"


@dataclass(frozen=True)
class Bin:
    """Pairs of about the same similarity, and how many of them were found."""

    similarities: Sequence[float]
    found_unverified: int
    found_verified: int

    @property
    def similarity(self) -> float:
        return math.fsum(self.similarities) / len(self.similarities)

    @property
    def expected(self) -> float:
        """Share of pairs that share a band, by theory, each at its own similarity."""
        return math.fsum(map(VERIFIED.minhash.match_probability, self.similarities)) / len(self.similarities)

    @property
    def sigma(self) -> float:
        """Standard deviation of that share."""
        probabilities = map(VERIFIED.minhash.match_probability, self.similarities)
        return math.sqrt(math.fsum(p * (1 - p) for p in probabilities)) / len(self.similarities)

    @property
    def unverified(self) -> float:
        return self.found_unverified / len(self.similarities)

    @property
    def verified(self) -> float:
        return self.found_verified / len(self.similarities)


def web_pages() -> list[list[str]]:
    """The words of the annotated pages' main contents: of those that are long enough and resemble no earlier one."""
    with gzip.open(WEB_PAGES, "rt", encoding="utf-8") as lines:
        pages = [words(json.loads(line)["main_content"])[:MAX_WORDS] for line in lines]
    pages = [page for page in pages if len(page) >= MIN_WORDS]
    with tempfile.TemporaryDirectory() as name:
        documents = [Page(f"{number:04d}", " ".join(page)) for number, page in enumerate(pages)]
        kept = deduplicate(Path(name) / "run", documents, UNVERIFIED).kept
    return [page for number, page in enumerate(pages) if f"{number:04d}" in kept]


def similarity(left: Sequence[str], right: Sequence[str]) -> tuple[int, int]:
    """Shingles in common, and in either."""
    ours, theirs = (set(shingles(" ".join(side), VERIFIED.minhash).tolist()) for side in (left, right))
    return len(ours & theirs), len(ours | theirs)


def near_duplicate(page: Sequence[str], target: float, rng: random.Random, lexicon: Sequence[str]) -> list[str]:
    """The page with some of its words replaced or deleted, so many that it resembles the page by `target` or just more.

    As many words as still leave it at `target`, found by bisection; then foreign ones at the end, each of which adds
    one shingle to those that only one of the two has.
    """
    places = rng.sample(range(len(page)), len(page))
    instead = [rng.choice([[], [rng.choice(lexicon)]]) for _ in places]

    def changed(count: int) -> list[str]:
        replaced = dict(zip(places[:count], instead, strict=False))
        return [word for place, own in enumerate(page) for word in replaced.get(place, [own])]

    low, high = 0, len(page)
    while high - low > 1:
        middle = (low + high) // 2
        common, union = similarity(page, changed(middle))
        low, high = (middle, high) if common >= target * union else (low, middle)
    common, union = similarity(page, changed(low))
    return changed(low) + [f"foreign{number}" for number in range(math.floor(common / target + 1e-9) - union)]


def measure(pages: Sequence[Sequence[str]], target: float, num_pairs: int, seed: int = 1) -> Bin:
    """Plant a near-duplicate of similarity `target` in each of `num_pairs` pages, and look for them."""
    rng = random.Random(f"{seed} {target}")
    lexicon = sorted({word for page in pages for word in page})
    documents, similarities = [], []
    for number, page in enumerate(rng.sample(pages, num_pairs)):
        copy = near_duplicate(page, target, rng, lexicon)
        common, union = similarity(page, copy)
        similarities.append(common / union)
        documents += [
            Page(f"page{number:04d}", " ".join(page), "2020"),
            Page(f"copy{number:04d}", " ".join(copy) + " .", "2021"),  # never the same text, at 1 neither
        ]
    found = []
    for config in (UNVERIFIED, VERIFIED):
        with tempfile.TemporaryDirectory() as name:
            removed = deduplicate(Path(name) / "run", documents, config, num_buckets=4, num_partitions=4).removed
        found.append(sum(removed.get(f"copy{number:04d}") == f"page{number:04d}" for number in range(num_pairs)))
        assert len(removed) == found[-1], "a page went for another one"
    return Bin(similarities, *found)


def draw(bins: Sequence[Bin], destination_png: Path) -> None:
    """The found shares with three standard deviations of theory around them, over the true similarity, as a PNG."""
    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    minhash = VERIFIED.minhash
    steps = [0.35 + 0.65 * step / 400 for step in range(401)]
    axes.plot(
        steps,
        [minhash.match_probability(step) for step in steps],
        color=_THEORY,
        linewidth=1.4,
        label=f"theory: 1 - (1 - s^{minhash.rows_per_band})^{minhash.num_bands}",
    )
    axes.errorbar(
        [part.similarity for part in bins],
        [part.unverified for part in bins],
        yerr=[3 * part.sigma for part in bins],
        color=_UNVERIFIED,
        marker="o",
        linestyle="none",
        capsize=3,
        label="found without verification, with 3 binomial sigma",
    )
    axes.plot(
        [part.similarity for part in bins],
        [part.verified for part in bins],
        color=_VERIFIED,
        marker="x",
        markersize=9,
        linestyle="none",
        label=f"found with verification at {VERIFIED.min_jaccard}",
    )
    axes.axvline(VERIFIED.min_jaccard, color=_VERIFIED, linestyle=":", linewidth=1)
    axes.set_xlabel("true Jaccard similarity of the word shingles")
    axes.set_ylabel("share of planted near-duplicates found")
    axes.set_title(f"{len(bins[0].similarities)} near-duplicates planted in real pages per bin")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="upper left")
    destination_png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(destination_png, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description="Near-duplicates found, against the theoretical S-curve")
    parser.add_argument("picture", type=Path, help="where to write the plot (PNG)")
    parser.add_argument("--pairs", type=int, default=200, help="planted near-duplicates per bin")
    arguments = parser.parse_args()
    pages = web_pages()
    bins = []
    for target in SIMILARITIES:
        bins.append(measure(pages, target, arguments.pairs))
        part = bins[-1]
        print(
            f"similarity {part.similarity:.3f}: {part.unverified:.3f} found, theory {part.expected:.3f} "
            f"({(part.unverified - part.expected) / part.sigma if part.sigma else 0:+.1f} sigma); "
            f"with verification {part.verified:.3f}",
            flush=True,
        )
    draw(bins, arguments.picture)


if __name__ == "__main__":
    main()
