"""fastText, as classifiers are trained and asked here: one line in, one probability a label out, the same every time.

Bojanowski, Grave, Joulin and Mikolov, "Bag of Tricks for Efficient Text Classification" (arXiv:1607.01759) and
"FastText.zip: Compressing text classification models" (arXiv:1612.03651); the library is fasttext-wheel 0.9.2.

A line is what `tasks.classifiers.normalise` makes of a text. Lines are asked in batches, in one call of the library:
crossing into C++ once for each line costs as much again as a short line itself.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.rule import Configuration

LABEL_PREFIX = "__label__"
LOG_FLOOR = 1e-5
"""What fastText adds to a probability before it takes the logarithm (`std_log` in its loss.cc), and so reports."""

_MIN_FEATURES = 256  # product quantisation makes so many centroids, and needs as many vectors


class FastTextTraining(Configuration):
    """fastText's parameters. The defaults are those of a small two-label model on some 10,000 to 100,000 lines."""

    dim: int = Field(16, ge=2, le=300, description="Length of a feature's vector; an even number quantises best")
    epoch: int = Field(3, ge=1, le=100, description="Passes over the examples")
    lr: float = Field(0.3, gt=0.0, le=2.0, description="Learning rate at the beginning; it falls to 0")
    word_ngrams: int = Field(2, ge=1, le=5, description="Longest run of words that is a feature")
    min_subword_chars: int = Field(3, ge=0, le=10, description="Shortest group of letters that is a feature")
    max_subword_chars: int = Field(5, ge=0, le=10, description="Longest group of letters that is one; 0: none are")
    bucket: int = Field(200_000, ge=1_000, le=10_000_000, description="Vectors that runs and groups are hashed to")
    min_count: int = Field(2, ge=1, le=1_000, description="Rarer words are no features of their own")
    cutoff: int = Field(
        30_000, ge=_MIN_FEATURES, le=10_000_000, description="Features kept when quantising: bounds the file's size"
    )
    seed: int = Field(1, ge=0, lt=2**31, description="Of the library's random numbers")


class FastText:
    """A loaded model. Raises ValueError where the file is none."""

    def __init__(self, path: Path) -> None:
        import fasttext
        from fasttext.FastText import loss_name

        try:
            with contextlib.redirect_stderr(io.StringIO()):  # load_model() prints a notice about its return type
                self._model: Any = fasttext.load_model(str(path))
        except (ValueError, MemoryError, RuntimeError) as error:
            raise ValueError(f"{path} is not a fastText model ({error}); name a .bin or .ftz file") from error
        self._names: tuple[str, ...] = tuple(self._model.get_labels())
        self.labels: tuple[str, ...] = tuple(name.removeprefix(LABEL_PREFIX) for name in self._names)
        losses = (loss_name.softmax, loss_name.hs)  # of the others the labels' probabilities do not sum to 1
        self._complementary = len(self.labels) == 2 and self._model.f.getArgs().loss in losses

    def probabilities(self, lines: Sequence[str], label: str) -> list[float]:
        """The probability of `label` for each line, 0 to 1; 0 for an empty line. Raises ValueError for no such label.

        Lines hold no line feed and no half of a character. The values are the library's own, which are up to
        `LOG_FLOOR` too high.
        """
        assert not any("\n" in line for line in lines), "fastText reads one line at a time"
        return self.probabilities_of([line.encode() + b"\n" for line in lines], label)

    def probabilities_of(self, lines: Sequence[bytes], label: str) -> list[float]:
        """The same of lines as `tasks.classifiers.normalise.model_lines` writes them: in UTF-8, with the line feed.

        Of two labels only the better one is asked for, because of more than one the library's batch gives each the
        first one's probability under numpy 2; models of more labels are asked line by line.
        """
        if label not in self.labels:
            raise ValueError(f"the model has no label {label!r}, but {', '.join(self.labels[:20])}: name one of these")
        name = self._names[self.labels.index(label)]
        if not self._complementary:
            return [self._one_of_many(line, name) for line in lines]
        best = zip(lines, *self._best_of(lines), strict=True)
        return [_score_of(name, names, scores) if names and not line.isspace() else 0.0 for line, names, scores in best]

    def best(self, lines: Sequence[str]) -> list[tuple[str, float]]:
        """The likeliest label of each line and its probability, 0 to 1; `("", 0.0)` for an empty line."""
        assert not any("\n" in line for line in lines), "fastText reads one line at a time"
        return [
            (names[0].removeprefix(LABEL_PREFIX), min(1.0, float(scores[0]))) if line and names else ("", 0.0)
            for line, names, scores in zip(lines, *self._best_of([line + "\n" for line in lines]), strict=True)
        ]

    def _best_of(self, lines: Sequence[str] | Sequence[bytes]) -> tuple[list[list[str]], list[Any]]:
        names, scores = self._model.f.multilinePredict(lines, 1, 0.0, "strict")
        return names, scores

    def _one_of_many(self, line: bytes, name: str) -> float:
        if line.isspace():
            return 0.0
        predictions = self._model.f.predict(line, -1, 0.0, "strict")
        return min(1.0, max((float(score) for score, label in predictions if label == name), default=0.0))


def _score_of(name: str, names: list[str], scores: Any) -> float:
    """Of the label `name`, where `names` and `scores` have the better one of two."""
    score: float = scores.item()
    if names[0] != name:
        score = 1.0 + 2 * LOG_FLOOR - score
    return score if score < 1.0 else 1.0


def load_fast_text(path: Path) -> FastText:
    """The model in `path`, loaded once per process for as long as the file stays what it is.

    Raises ValueError where it is no fastText model, or no file. The four models asked for last are kept.
    """
    try:
        facts = path.stat()
    except OSError as error:
        raise ValueError(f"{path} is not a fastText model ({error.strerror}); name a .bin or .ftz file") from error
    return _loaded(path, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _loaded(path: Path, inode: int, num_bytes: int, mtime_ns: int) -> FastText:
    return FastText(path)


def train_fast_text(
    examples: Iterable[tuple[str, str]],
    training: FastTextTraining,
    out: Path,
    *,
    quantised: bool,
    dense_out: Path | None = None,
) -> int:
    """Train on (label, line) pairs and write the model to `out`; how many examples there were.

    The same examples, in whatever order, with the same training give the same file, byte for byte: one thread, a fixed
    seed, and an order by hash, which also mixes the sources. An example that comes n times counts n times. Empty lines
    are left out. `quantised` prunes to `training.cutoff` features and compresses; `dense_out` is for the model before.
    Holds all lines in memory. Raises ValueError where there are not two labels with examples, or training fails.
    """
    import fasttext

    copies: Counter[str] = Counter()
    keyed: list[tuple[bytes, str]] = []
    labels = set()
    for label, line in examples:
        assert "\n" not in line and label.split() == [label], "one line and a label without white space"
        if line:
            labels.add(label)
            written = f"{LABEL_PREFIX}{label} {line}"
            copies[written] += 1
            keyed.append((hashlib.sha256(f"{copies[written]} {written}".encode()).digest(), written))
    if len(labels) < 2:
        found = f"only {labels.pop()!r}" if labels else "none"
        raise ValueError(f"training needs examples of at least two labels, but there are {found}; give more data")
    keyed.sort()
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        lines = Path(folder) / "examples.txt"
        with lines.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{written}\n" for _, written in keyed)
        try:
            model = fasttext.train_supervised(
                input=str(lines),
                dim=training.dim,
                epoch=training.epoch,
                lr=training.lr,
                wordNgrams=training.word_ngrams,
                minn=training.min_subword_chars,
                maxn=training.max_subword_chars,
                bucket=training.bucket,
                minCount=training.min_count,
                seed=training.seed,
                thread=1,  # several threads race on the weights, and no two runs agree
                verbose=0,
            )
            if dense_out is not None:
                model.save_model(str(dense_out))
            if quantised:
                model.quantize(
                    input=str(lines),
                    cutoff=training.cutoff,
                    retrain=True,
                    qnorm=True,
                    epoch=training.epoch,
                    lr=training.lr,
                    thread=1,
                    verbose=0,
                )
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"fastText does not train on {len(keyed)} examples with {training!r}: {error}; give more data, a lower"
                " learning rate, or (too small a matrix) word pairs or letter groups"
            ) from error
        model.save_model(str(out))
    return len(keyed)
