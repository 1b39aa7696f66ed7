"""Requests share a batch: each gets what it would get alone, waits its turn, and can go away."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import DecoderConfig
from model.decoder import Decoder
from tasks.completions import BROKEN, STOPPING, CompletionService, QueueFullError, Submission, UnavailableError
from tasks.generation import TextGenerator
from tasks.text_batch import Piece, TextRequest
from tests.infra.small_model import small_model

WAIT_S = 30.0


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> TextGenerator:
    small = TextGenerator.load(*small_model(tmp_path_factory.mktemp("model")))
    torch.manual_seed(0)
    shape = {**small.state.decoder, "max_seq_len": 2000}
    return replace(small, model=Decoder(DecoderConfig.from_dict(shape)).eval())


@pytest.fixture
def service(generator: TextGenerator) -> Iterator[CompletionService]:
    service = CompletionService(generator, max_rows=2, max_queue=3)
    yield service
    service.close()


class Reader:
    """Takes what one submission gets."""

    def __init__(self) -> None:
        self._got: queue.Queue[tuple[int, Piece | UnavailableError]] = queue.Queue()

    def deliver(self, number: int, piece: Piece | UnavailableError) -> None:
        self._got.put((number, piece))

    def next(self) -> tuple[int, Piece | UnavailableError]:
        return self._got.get(timeout=WAIT_S)

    @property
    def has_more(self) -> bool:
        return not self._got.empty()

    def texts(self, num_rows: int) -> list[tuple[str, str]]:
        """Text and end of each row."""
        texts, ends = [""] * num_rows, [""] * num_rows
        while not all(ends):
            number, piece = self.next()
            assert isinstance(piece, Piece), piece
            texts[number] += piece.text
            ends[number] = piece.ended
        return list(zip(texts, ends, strict=True))


def endless(generator: TextGenerator) -> TextRequest:
    """Takes a second or more; the likeliest token of a random network is never the end of a document."""
    return generator.request("The", max_new_tokens=1900, temperature=0)


def wait_until(condition: Any) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def submit(service: CompletionService, *requests: TextRequest) -> tuple[Submission, Reader]:
    reader = Reader()
    return service.submit(requests, reader.deliver), reader


def test_each_gets_what_it_gets_alone_although_they_arrive_one_after_another(
    generator: TextGenerator, service: CompletionService
) -> None:
    prompts = [("The", 30), ("A long walk through the town", 5), ("né", 20), ("In", 1), ("Once upon", 12)]
    alone = [generator.continuation(prompt, max_new_tokens=length, seed=7) for prompt, length in prompts]
    readers = []
    for prompt, length in prompts:
        readers.append(submit(service, generator.request(prompt, max_new_tokens=length, seed=7))[1])
        time.sleep(0.003)
    assert [reader.texts(1)[0][0] for reader in readers] == alone
    wait_until(lambda: (service.num_running, service.num_waiting) == (0, 0))


@given(st.lists(st.tuples(st.sampled_from(["The", "A", "né"]), st.integers(1, 12), st.integers(0, 3)), max_size=6))
@settings(max_examples=15)
def test_whatever_shares_the_batch(generator: TextGenerator, wanted: list[tuple[str, int, int]]) -> None:
    service = CompletionService(generator, max_rows=2, max_queue=6)
    try:
        requests = [generator.request(prompt, max_new_tokens=length, seed=seed) for prompt, length, seed in wanted]
        _, reader = submit(service, *requests)
        alone = [generator.continuation(text, max_new_tokens=length, seed=seed) for text, length, seed in wanted]
        assert [text for text, _ in reader.texts(len(requests))] == alone
    finally:
        service.close()


def test_ends_say_why(generator: TextGenerator, service: CompletionService) -> None:
    whole = generator.continuation("The", max_new_tokens=20, seed=3)
    stop = whole[4:6]
    stopped = generator.request("The", max_new_tokens=20, seed=3, stop=[stop])
    _, reader = submit(service, generator.request("The", max_new_tokens=20, seed=3), stopped)
    assert reader.texts(2) == [(whole, "length"), (whole[: whole.index(stop)], "stop")]


def test_a_cancelled_row_frees_its_place_and_gets_nothing_more(
    generator: TextGenerator, service: CompletionService
) -> None:
    long, reader = submit(service, endless(generator), endless(generator))
    _, short = submit(service, generator.request("The", max_new_tokens=3))
    reader.next()
    assert (service.num_running, service.num_waiting) == (2, 1)
    long.cancel()
    assert short.texts(1)[0][1] == "length"
    wait_until(lambda: service.num_running == 0)
    while reader.has_more:
        piece = reader.next()[1]
        assert isinstance(piece, Piece) and not piece.ended


def test_what_waits_can_be_cancelled(generator: TextGenerator, service: CompletionService) -> None:
    running, reader = submit(service, endless(generator), endless(generator))
    reader.next()
    waiting, nobody = submit(service, endless(generator), endless(generator), endless(generator))
    assert service.num_waiting == 3
    waiting.cancel()
    wait_until(lambda: service.num_waiting == 0)
    assert not nobody.has_more and service.num_running == 2
    running.cancel()


def test_the_queue_has_an_end_and_a_submission_is_taken_whole_or_not_at_all(
    generator: TextGenerator, service: CompletionService
) -> None:
    running, reader = submit(service, *[endless(generator)] * 3)
    reader.next()
    with pytest.raises(QueueFullError, match="3 of 5 places are taken"):
        submit(service, *[endless(generator)] * 3)
    more, _ = submit(service, *[endless(generator)] * 2)
    with pytest.raises(QueueFullError, match="5 of 5 places"):
        submit(service, endless(generator))
    with pytest.raises(ValueError, match="6 continuations are asked for at once; there are 5 places"):
        submit(service, *[endless(generator)] * 6)
    running.cancel()
    more.cancel()


def test_a_request_that_can_not_work_is_refused_before_anything_is_queued(
    generator: TextGenerator, service: CompletionService
) -> None:
    wrong = generator.request("The", max_new_tokens=1999)
    with pytest.raises(ValueError, match="exceed the model's 2000 positions"):
        submit(service, generator.request("The", max_new_tokens=3), wrong)
    assert service.num_waiting == service.num_running == 0


def test_closing_ends_what_runs_and_what_waits_and_says_so(generator: TextGenerator) -> None:
    service = CompletionService(generator, max_rows=2, max_queue=3)
    _, reader = submit(service, *[endless(generator)] * 4)
    reader.next()
    service.close()
    ends = []
    while reader.has_more:
        number, piece = reader.next()
        ends += [(number, str(piece))] if isinstance(piece, UnavailableError) else []
    assert sorted(ends) == [(number, STOPPING) for number in range(4)]
    with pytest.raises(UnavailableError, match=STOPPING):
        submit(service, endless(generator))
    assert not service.available and not service.broken
    service.close()


def test_draining_lets_what_runs_finish_and_ends_what_waits(generator: TextGenerator) -> None:
    service = CompletionService(generator, max_rows=1, max_queue=3)
    _, first = submit(service, generator.request("The", max_new_tokens=60, temperature=0))
    first.next()
    _, second = submit(service, endless(generator))
    service.drain(WAIT_S)
    assert isinstance(second.next()[1], UnavailableError)
    assert first.texts(1)[0][1] == "length"
    with pytest.raises(UnavailableError):
        submit(service, endless(generator))
    service.close()


def test_an_error_of_one_row_is_its_own_and_the_others_go_on(generator: TextGenerator) -> None:
    """One token's embedding is not finite: its row ends, and who takes its place afterwards finds nothing of it."""
    torch.manual_seed(1)
    shape = replace(generator.model.config, tie_embeddings=False)
    broken = replace(generator, model=Decoder(shape).eval())
    hole = broken.tokenizer.get_vocab_size() - 1
    good = broken.request("The", max_new_tokens=5, seed=1)
    alone = broken.continuation("The", max_new_tokens=5, seed=1)
    with torch.no_grad():
        broken.model.embedding.weight[hole] = float("nan")
    service = CompletionService(broken, max_rows=2, max_queue=3)
    try:
        _, reader = submit(service, replace(good, prompt_tokens=(1, hole)), good)
        text, ends = "", {}
        while len(ends) < 2:
            number, piece = reader.next()
            assert isinstance(piece, Piece)
            text += piece.text
            if piece.ended:
                ends[number] = (piece.ended, piece.error)
        assert ends[0][0] == "error" and "not finite" in ends[0][1]
        assert (text, ends[1]) == (alone, ("length", ""))
        _, later = submit(service, good, good)
        assert later.texts(2) == [(alone, "length")] * 2
    finally:
        service.close()


def test_an_error_of_ours_ends_the_service_and_everybody_is_told(
    generator: TextGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[type[BaseException] | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: raised.append(arguments.exc_type))
    service = CompletionService(generator, max_rows=1, max_queue=3)

    def faulty(number: int, piece: Piece | UnavailableError) -> None:
        if isinstance(piece, Piece):
            raise KeyError("of this test")

    running, first = submit(service, endless(generator))
    first.next()
    service.submit([endless(generator)], faulty)
    _, waiting = submit(service, endless(generator))
    running.cancel()
    _, error = waiting.next()
    assert isinstance(error, UnavailableError) and str(error) == BROKEN
    service.close()
    assert raised == [KeyError] and service.broken and not service.available
    with pytest.raises(UnavailableError, match=BROKEN):
        submit(service, endless(generator))
