"""Generation on the CPU, against `transformers`' `generate` of the same weights in the same precision.

    python -m tests.benchmarks.bench_generation [--presets 10m 124m] [--repeats 7] [--threads 2]

fp32, greedy, the same tokens (compared). For each preset:

- **one prompt** of 16 tokens, continued by 64 (`124m`: 24), prefill included;
- **the floor**: the weight products of one new token alone, each parameter matrix times one vector, against our steps
  after the first. 85 % means that everything else costs no more than 15 % of a step;
- **eight requests** with prompts of 16 to 128 tokens that ask for 32 to 88 (`124m`: 12 to 40) and come one after the
  other, every 20 ms (`124m`: 100). Ours takes each when it comes. The reference's padded batch, which cannot be joined,
  begins when the last one is there, pads prompts on the left and goes on until the longest is done. What counts is the
  time from the first arrival until the last token of all. Also with all eight there from the start, where it has
  nothing to wait for, and in seconds from a request's arrival to its end, averaged over the requests.

For `10m` also **the cache**: the 512th token with 511 in the cache against a forward pass over all 512.
The contestants take turns within one run, each first every other time. A ratio is the median of the turns'.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import PRESETS, preset
from model.decode_step import DecodeStep
from model.decoder import Decoder
from model.generation import Generation
from model.kv_cache import RowCache
from model.sampling import Sampling
from tests.benchmarks.report import report
from tests.model.reference_networks import reference_network


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one preset has to do, and the ratios that are wanted of one prompt: to the reference, and of the floor."""

    num_new: int
    num_new_each: Sequence[int]
    gap_s: float
    wanted: float
    wanted_of_floor: float | None


CASES = {
    "10m": Case(num_new=64, num_new_each=range(32, 96, 8), gap_s=0.02, wanted=1.3, wanted_of_floor=None),
    "124m": Case(num_new=24, num_new_each=range(12, 44, 4), gap_s=0.1, wanted=1.1, wanted_of_floor=0.85),
}
WANTED_OF_CACHE, WANTED_OF_EIGHT = 10.0, 1.3
PROMPT_TOKENS, PROMPT_TOKENS_EACH = 16, range(16, 144, 16)


def prompt_of(num_tokens: int, vocab_size: int) -> list[int]:
    return torch.randint(0, vocab_size, (num_tokens,), generator=torch.Generator().manual_seed(num_tokens)).tolist()


def greedy(num_new: int) -> Sampling:
    return Sampling(max_new_tokens=num_new, temperature=0.0)


def taken_turns(contestants: Sequence[Callable[[], float]], repeats: int) -> list[list[float]]:
    """Seconds of each contestant, turn by turn; the first turn does not count."""
    turns: list[list[float]] = []
    for turn in range(repeats + 1):
        order = range(len(contestants)) if turn % 2 else reversed(range(len(contestants)))
        seconds = [0.0] * len(contestants)
        for number in order:
            seconds[number] = contestants[number]()
        turns.append(seconds)
    return turns[1:]


def ratio(turns: Sequence[Sequence[float]], of: int, to: int) -> tuple[float, str]:
    """The median of one contestant's time in another's, and with its quartiles."""
    low, median, high = statistics.quantiles([turn[of] / turn[to] for turn in turns], n=4)
    return median, f"{median:.2f} ({low:.2f} to {high:.2f})"


class Contest:
    """Our network and the reference's, with the same weights."""

    def __init__(self, name: str) -> None:
        config = preset(name, PRESETS[name].reference_vocab_size)
        torch.manual_seed(0)
        self.name, self.config, self.case = name, config, CASES[name]
        self.ours = Decoder(config).eval()
        self.theirs: Any = reference_network(self.ours)

    def theirs_generate(self, prompts: list[list[int]], num_new: int) -> Tensor:
        """(B, `num_new`), of prompts padded on the left."""
        longest = max(map(len, prompts))
        padded = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        looked_at = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        continued: Tensor = self.theirs.generate(
            padded, attention_mask=looked_at, max_new_tokens=num_new, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        return continued[:, longest:]

    def one_prompt(self, repeats: int) -> list[list[object]]:
        prompt = prompt_of(PROMPT_TOKENS, self.config.vocab_size)
        num_new = self.case.num_new
        said: dict[str, list[int]] = {}
        step_s: list[float] = []

        def ours() -> float:
            start = time.perf_counter()
            batch = Generation(self.ours, max_rows=1, eos_id=None, max_positions=PROMPT_TOKENS + num_new)
            batch.add(prompt, greedy(num_new))
            tokens = [drawn.token for drawn in batch.step()]
            first = time.perf_counter()
            while batch.num_rows:
                tokens += [drawn.token for drawn in batch.step()]
            end = time.perf_counter()
            said["ours"] = [token for token in tokens if token is not None]
            step_s.append((end - first) / (num_new - 1))
            return end - start

        def theirs() -> float:
            start = time.perf_counter()
            said["theirs"] = self.theirs_generate([prompt], num_new)[0].tolist()
            return time.perf_counter() - start

        floor = weight_products(self.ours)

        def products() -> float:
            start = time.perf_counter()
            for _ in range(num_new - 1):
                floor()
            return (time.perf_counter() - start) / (num_new - 1)

        turns = taken_turns([ours, theirs, products], repeats)
        assert said["ours"] == said["theirs"], "the two networks say the same"
        of_floor = [[turn[2], each] for turn, each in zip(turns, step_s[1:], strict=True)]
        return [
            _row(f"{self.name}, one prompt: ms a token", turns, 1_000 / num_new, self.case.wanted),
            _row(
                f"{self.name}, floor by our step: ms", of_floor, 1_000, self.case.wanted_of_floor, reference=0, ours=1
            ),
        ]

    def eight_requests(self, repeats: int, gap_s: float) -> list[list[object]]:
        prompts = [prompt_of(length, self.config.vocab_size) for length in PROMPT_TOKENS_EACH]
        num_new_each = list(self.case.num_new_each)
        arrivals_s = [number * gap_s for number in range(len(prompts))]
        ended_s: dict[str, list[float]] = {"ours": [], "theirs": []}
        said: dict[str, list[list[int]]] = {}

        def ours() -> float:
            start = time.perf_counter()
            batch = Generation(
                self.ours, max_rows=8, eos_id=None, max_positions=max(PROMPT_TOKENS_EACH) + max(num_new_each)
            )
            number_of: dict[int, int] = {}
            tokens: list[list[int]] = [[] for _ in prompts]
            ends_s = [0.0] * len(prompts)
            while len(number_of) < len(prompts) or batch.num_rows:
                num = len(number_of)
                if num < len(prompts) and not batch.num_rows:
                    time.sleep(max(0.0, start + arrivals_s[num] - time.perf_counter()))
                while num < len(prompts) and time.perf_counter() - start >= arrivals_s[num]:
                    number_of[batch.add(prompts[num], greedy(num_new_each[num]))] = num
                    num += 1
                for drawn in batch.step():
                    number = number_of[drawn.row_id]
                    assert drawn.token is not None, "there is no end token"
                    tokens[number].append(drawn.token)
                    if drawn.ended:
                        ends_s[number] = time.perf_counter() - start
            said["ours"] = tokens
            ended_s["ours"].append(statistics.mean(e - a for e, a in zip(ends_s, arrivals_s, strict=True)))
            return max(ends_s)

        def theirs() -> float:
            start = time.perf_counter()
            continued = self.theirs_generate(prompts, max(num_new_each)).tolist()
            end_s = arrivals_s[-1] + time.perf_counter() - start  # it waits for the last one: nothing to measure there
            said["theirs"] = [row[:num] for row, num in zip(continued, num_new_each, strict=True)]
            ended_s["theirs"].append(statistics.mean(end_s - arrival for arrival in arrivals_s))
            return end_s

        turns = taken_turns([ours, theirs], repeats)
        assert said["ours"] == said["theirs"], "the two networks say the same"
        if not gap_s:
            return [_row(f"{self.name}, eight requests at once: s", turns, 1, None)]
        waited = [list(pair) for pair in zip(ended_s["ours"], ended_s["theirs"], strict=True)][1:]
        return [
            _row(f"{self.name}, eight requests every {gap_s * 1_000:.0f} ms: s", turns, 1, WANTED_OF_EIGHT),
            _row(f"{self.name}, and a request's mean time: s", waited, 1, None),
        ]

    def the_cache(self, repeats: int, num_tokens: int = 512) -> list[object]:
        """A step with all but one of `num_tokens` in the cache, against a forward pass over all of them."""
        tokens = prompt_of(num_tokens, self.config.vocab_size)
        cache = RowCache(self.config, max_rows=1)
        step = DecodeStep(self.ours, cache)
        with torch.inference_mode():
            self.ours.hidden_states(torch.tensor([tokens[:-1]]), cache=cache.added([num_tokens - 1]))
        logits: dict[str, Tensor] = {}

        @torch.inference_mode()
        def cached() -> float:
            start = time.perf_counter()
            for _ in range(10):
                cache.lengths = [num_tokens - 1]
                logits["cached"] = step.logits(tokens[-1:])[0]
            return (time.perf_counter() - start) / 10

        @torch.inference_mode()
        def uncached() -> float:
            start = time.perf_counter()
            logits["uncached"] = self.ours.logits(self.ours.hidden_states(torch.tensor([tokens]))[0, -1])
            return time.perf_counter() - start

        turns = taken_turns([cached, uncached], repeats)
        torch.testing.assert_close(logits["cached"], logits["uncached"], atol=1e-3, rtol=1e-3)
        return _row(f"{self.name}, token {num_tokens} cached, uncached: ms", turns, 1_000, WANTED_OF_CACHE)


def weight_products(model: Decoder) -> Callable[[], None]:
    """Every matrix that one new token goes through, times a vector, and nothing else."""
    matrices = [parameter.detach() for name, parameter in model.blocks.named_parameters() if parameter.ndim == 2]
    matrices.append(model.head_weight.detach())
    vectors = {width: torch.randn(1, width) for width in {matrix.shape[1] for matrix in matrices}}

    @torch.inference_mode()
    def products() -> None:
        for matrix in matrices:
            F.linear(vectors[matrix.shape[1]], matrix)

    return products


def _row(
    case: str, turns: Sequence[Sequence[float]], scale: float, wanted: float | None, reference: int = 1, ours: int = 0
) -> list[object]:
    median, shown = ratio(turns, reference, ours)
    our_s, reference_s = (statistics.median(turn[number] for turn in turns) for number in (ours, reference))
    if wanted is None:
        return [case, our_s * scale, reference_s * scale, shown, "", ""]
    return [case, our_s * scale, reference_s * scale, shown, f"{wanted:g}", "yes" if median >= wanted else "no"]


def main() -> None:
    parser = argparse.ArgumentParser(description="generation against transformers' generate")
    parser.add_argument("--presets", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--repeats", type=int, default=7, help="turns that count, at least 2")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    threads_before = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    rows: list[list[object]] = []
    for name in arguments.presets:
        contest = Contest(name)
        if name == "10m":
            rows.append(contest.the_cache(arguments.repeats))
        rows += contest.one_prompt(arguments.repeats)
        print(f"{name}: one prompt done", file=sys.stderr)
        for gap_s in (contest.case.gap_s, 0.0):
            rows += contest.eight_requests(max(2, arguments.repeats // 2), gap_s)
        print(f"{name}: eight requests done", file=sys.stderr)
    report(
        "generation",
        ("case", "ours", "reference", "ratio", "wanted", "reached"),
        rows,
        {"threads": arguments.threads, "torch": torch.__version__, "repeats": arguments.repeats},
    )
    torch.set_num_threads(threads_before)  # `make bench` runs the others in this process


if __name__ == "__main__":
    main()
