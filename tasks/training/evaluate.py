"""What a run looks at from time to time: held-out text, by slices, and what the network writes.

Where every process has the whole network, each scores its share of the documents, and rank 0 alone writes samples.
Where the network is spread over them, all score all documents, and samples come from a copy that rank 0 gathers: every
process has to take part in every pass.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from tokenizers import Tokenizer

from model.decoder import Decoder
from model.parallel import Parallelism
from tasks.evaluation.bits_per_byte import BitsPerByte, Score, choose_documents, summed
from tasks.evaluation.slices import cells, document_languages, score_cells, share, slice_metrics, slice_scores
from tasks.pack import TokenShards
from tasks.samples import append_samples
from tasks.training.network import as_written, gathered


def is_spread(parallelism: Parallelism) -> bool:
    """Whether no process has the whole network."""
    return parallelism.world_size > 1 and (parallelism.sharded or parallelism.tensor > 1)


class Evaluation:
    """The same held-out documents every time."""

    def __init__(
        self,
        held_out: TokenShards,
        *,
        max_documents: int,
        corpus_dir: Path | None,
        parallelism: Parallelism,
        rank: int,
        device: torch.device,
    ) -> None:
        numbers = choose_documents(held_out, max_documents)
        ids = [held_out.document(number).document_id for number in numbers]
        languages = document_languages(corpus_dir, ids) if corpus_dir is not None else {}
        self._held_out, self._parallelism, self._device = held_out, parallelism, device
        self._cells = cells(held_out, numbers, languages)
        self._shared = parallelism.world_size > 1 and not is_spread(parallelism)
        self._own = share(self._cells, rank, parallelism.world_size) if self._shared else self._cells

    def run(self, model: Decoder) -> tuple[BitsPerByte, dict[str, float]]:
        """The evaluation as a whole, and bits per byte of each slice by its metric's name; all processes must call it.

        Leaves the model in the mode it was in.
        """
        with as_written(self._parallelism), self._parallelism.autocast(self._device.type):
            scores = score_cells(model, self._held_out, self._own)
        if self._shared:
            scores = self._added_up(scores)
        return summed(scores), slice_metrics(slice_scores(self._cells, scores))

    def _added_up(self, scores: list[Score]) -> list[Score]:
        sums = torch.tensor(
            [[score.nats, score.num_tokens, score.num_bytes, score.num_documents] for score in scores],
            dtype=torch.float64,
            device=self._device,
        )
        dist.all_reduce(sums)
        return [Score(nats, *(int(count) for count in counts)) for nats, *counts in sums.tolist()]


def write_samples(
    samples_file: Path, model: Decoder, tokenizer: Tokenizer, step: int, *, parallelism: Parallelism, rank: int
) -> None:
    """Have the network continue the prompts; all processes must call it."""
    whole = gathered(model, keep=rank == 0) if is_spread(parallelism) else model
    if rank == 0:
        assert whole is not None
        with as_written(parallelism):
            append_samples(samples_file, whole, tokenizer, step)
