"""Labels and scores of texts as arrays, checked once where they come in: True is a positive text, a score is 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def checked_scores(scores: FloatArray | Sequence[float]) -> FloatArray:
    """`scores` in double precision. Raises ValueError where one is no number from 0 to 1."""
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"scores have the shape {array.shape}; give one score for each text, in one dimension")
    wrong = ~((array >= 0) & (array <= 1))  # true of "not a number" too
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(f"score {first + 1:,} of {len(array):,} is {array[first]}; a score is a number from 0 to 1")
    return array


def checked_labels(labels: BoolArray | Sequence[bool], num_scores: int) -> BoolArray:
    """`labels` as an array. Raises ValueError where they are not booleans, or not as many as the scores."""
    array = np.asarray(labels)
    if array.shape != (num_scores,):
        raise ValueError(f"labels have the shape {array.shape}, but there are {num_scores:,} scores; give one for each")
    if num_scores and array.dtype != np.bool_:
        raise ValueError(f"labels are of the type {array.dtype}; give booleans, True for a positive text")
    return array.astype(np.bool_)


def checked_classes(
    labels: BoolArray | Sequence[bool], scores: FloatArray | Sequence[float]
) -> tuple[BoolArray, FloatArray]:
    """Both, checked. Raises ValueError where they do not fit, or where a class has no text."""
    checked = checked_scores(scores)
    checked_as = checked_labels(labels, len(checked))
    num_positives = int(checked_as.sum())
    if num_positives in (0, len(checked)):
        raise ValueError(
            f"{num_positives:,} of {len(checked):,} labelled texts are positive; both positive and negative texts are"
            " needed to measure a classifier"
        )
    return checked_as, checked
