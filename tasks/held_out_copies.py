"""Held-out text that another corpus of the mixture would train on.

What is held out of a corpus is held out with its near-duplicates, but the clusters of near-duplicates are a corpus'
own. A document that stands in two corpora may be held out of one and trained on from the other, and then the figures
on held-out text are better than they should be. Equal texts are counted here, by their SHA-256; near-duplicates across
corpora are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.tokenizer import corpus_cluster_ids, corpus_files, split_documents


def num_held_out_copies(main: Path, other: Path, held_out_fraction: float) -> int:
    """Documents that `other` trains on with exactly the text of one that `main` holds out; both are corpus versions.

    Reads two columns of short values, never a text. Raises ValueError where a corpus can't be split.
    """
    held_out = [texts for texts in _texts(main, held_out_fraction, held_out=True) if len(texts)]
    wanted = pa.concat_arrays(held_out)
    trained = _texts(other, held_out_fraction, held_out=False)
    return sum(pc.sum(pc.is_in(texts, value_set=wanted)).as_py() or 0 for texts in trained)


def _texts(corpus: Path, fraction: float, *, held_out: bool) -> Iterator[pa.StringArray]:
    """SHA-256 of the texts on one side of the split, file by file."""
    split = split_documents(corpus_cluster_ids(corpus), fraction)
    for file in corpus_files(corpus):
        table = pq.read_table(file, columns=["cluster_id", "text_sha256"])
        wanted = [split.holds_out(cluster) is held_out for cluster in table["cluster_id"].to_pylist()]
        yield table["text_sha256"].filter(pa.array(wanted, pa.bool_())).combine_chunks()
