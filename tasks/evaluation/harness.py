"""EleutherAI's lm-evaluation-harness on our network, and packs of tasks as its tasks.

The harness asks (`ConfigurableTask`), measures and aggregates, so that a figure here is the figure others publish; what
it asks goes to a `Scorer`. Nothing is downloaded and nothing is cached: rows come from the pack, checked, and are held
in memory. Every context begins with the end-of-text token, as every document of training did; a sentence or text
without a context follows it directly.

Importing this module takes a second or two: the harness imports `datasets`, and torch.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, TemplateLM
from lm_eval.api.registry import get_metric_aggregation
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from tokenizers import Tokenizer

from model.generate import generate
from tasks.evaluation.loglikelihood import LocalScorer, Pair, Scorer, is_truncated
from tasks.evaluation.pack_rows import Example, Kind
from tasks.evaluation.task_pack import HIGHER_IS_BETTER, METRICS, PackTask, TaskPack
from tasks.evaluation.task_result import BYTES, LOGLIKELIHOOD, WORDS, ExampleScore, TaskResult
from tasks.tokenizer import END_OF_TEXT_ID, encodable

Progress = Callable[[str, int, int], None]
"""Told a task's name, how many of its requests are done, and how many there are."""

_OUTPUT_TYPES: Mapping[Kind, str] = {
    "multiple_choice": "multiple_choice",
    "last_word": "loglikelihood",
    "minimal_pairs": "multiple_choice",
    "perplexity": "loglikelihood_rolling",
}


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """Our network as the harness sees it."""

    def __init__(self, scorer: Scorer, tokenizer: Tokenizer, *, progress: Callable[[int, int], None] | None) -> None:
        """`progress` is told requests done and all of them. Raises ValueError for the tokenizer of another model."""
        super().__init__()
        num_tokens = tokenizer.get_vocab_size()
        if num_tokens > scorer.vocab_size:  # of a small corpus a tokenizer is smaller than was asked for
            raise ValueError(
                f"the model's vocabulary has {scorer.vocab_size} entries, the tokenizer's {num_tokens}: evaluate a"
                " model with the tokenizer it was trained with"
            )
        self.scorer = scorer
        self.tokenizer = tokenizer
        self.truncated: set[tuple[str, str]] = set()  # context and continuation, as the harness asked for them
        self._progress = progress

    @property
    def eot_token_id(self) -> int:
        return END_OF_TEXT_ID

    @property
    def max_length(self) -> int:
        return self.scorer.max_positions

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The text's tokens behind the end-of-text token, or without it where the harness says so."""
        ids: list[int] = self.tokenizer.encode(encodable(string)).ids
        return ids if add_special_tokens is False else [END_OF_TEXT_ID, *ids]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """The harness' own way from texts to tokens; our progress instead of its bars."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        pairs: list[Pair] = []
        for texts, context, continuation in requests:
            if not continuation:
                raise ValueError(f"the continuation {texts[1]!r} of {texts[0][-80:]!r} holds no token of its own")
            pairs.append((context, continuation))
            if is_truncated(pairs[-1], self.max_length):
                self.truncated.add(texts)
        return self._scored(pairs)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """The log-probability of each whole text, nats, by the harness' windows: the last one has a full context."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows: list[list[Pair]] = []
        for request in requests:
            tokens = self.tok_encode(request.args[0], add_special_tokens=False)
            found = get_rolling_token_windows(tokens, END_OF_TEXT_ID, max_seq_len=self.max_length, context_len=1)
            windows.append([make_disjoint_window(window) for window in found])
        scored = iter(self._scored([window for text in windows for window in text]))
        return [sum(next(scored)[0] for _ in text) for text in windows]

    def _scored(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        done = 0

        def on_done(num_pairs: int) -> None:
            nonlocal done
            done += num_pairs
            if self._progress is not None:
                self._progress(done, len(pairs))

        return self.scorer.loglikelihoods(pairs, on_done=on_done)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Greedy text up to one of the strings in `until`; tasks of the harness ask for it, none of a pack does."""
        if not isinstance(self.scorer, LocalScorer):
            raise ValueError("a task that generates text needs the model in one process: evaluate with one worker")
        return [self._generated(*request.args, scorer=self.scorer) for request in requests]

    def _generated(self, context: str, options: Mapping[str, Any], *, scorer: LocalScorer) -> str:
        stops = [stop for stop in options.get("until", ()) if stop]
        num_new = min(int(options.get("max_gen_toks", 256)), self.max_length - 1)
        tokens: list[int] = []
        text = ""
        for token in generate(
            scorer.model,
            self.tok_encode(context)[-(self.max_length - num_new) :],
            max_new_tokens=num_new,
            temperature=float(options.get("temperature", 0.0)) if options.get("do_sample") else 0.0,
            eos_id=END_OF_TEXT_ID,
            seed=0,
            num_tokens=self.tokenizer.get_vocab_size(),
        ):
            tokens.append(token)
            text = self.tokenizer.decode(tokens)
            if any(stop in text for stop in stops):
                break
        return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=None)]


class PackConfigurableTask(ConfigurableTask):  # type: ignore[misc]
    """A pack's task as the harness' own: its rows name prompt, choices and gold as plain fields, without templates."""

    def __init__(self, task: PackTask, examples: Sequence[Example], shots: Mapping[str, str]) -> None:
        self._rows = [_harness_row(task, example, shots.get(example.id, "")) for example in examples]
        super().__init__(
            config={
                "task": task.name,
                "test_split": "test",
                "output_type": _OUTPUT_TYPES[task.kind],
                "doc_to_text": "prompt",
                "doc_to_target": "target",
                "doc_to_choice": "choices" if _OUTPUT_TYPES[task.kind] == "multiple_choice" else None,
                "target_delimiter": "" if task.kind == "minimal_pairs" else " ",
                "num_fewshot": 0,  # solved examples are in the prompt already
                "metric_list": [
                    {
                        "metric": metric,
                        "aggregation": _aggregation(metric),
                        "higher_is_better": HIGHER_IS_BETTER[metric],
                    }
                    for metric in METRICS[task.kind]
                ],
            }
        )

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """In memory."""
        self.dataset = {"test": Dataset.from_list(self._rows)}

    def fewshot_docs(self) -> None:
        """Not the harness' affair."""

    def build_all_requests(self, **_: Any) -> None:
        """As the harness does it, without a bar on the terminal."""
        self._instances = []
        for number, row in enumerate(self.eval_docs):
            found = self.construct_requests(row, row["prompt"], metadata=(self.config.task, number, 1))
            self._instances += found if isinstance(found, list) else [found]


def evaluate_tasks(
    scorer: Scorer,
    tokenizer: Tokenizer,
    pack: TaskPack,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[TaskResult]:
    """The results of a pack's tasks, on at most `limit` examples of each.

    All rows are read before the first is asked. Raises ValueError for rows that are not as they have to be, for another
    model's tokenizer and for a model whose logits are not finite.
    """
    chosen = [(task, task.choose(limit, seed)) for task in pack.tasks]
    results = []
    for task, examples in chosen:

        def on_done(done: int, total: int, name: str = task.name) -> None:
            if progress is not None:
                progress(name, done, total)

        lm = HarnessModel(scorer, tokenizer, progress=on_done)
        results.append(run_task(lm, task, examples, seed=seed))
    return results


def run_task(lm: LM, task: PackTask, examples: Sequence[Example], *, seed: int = 0) -> TaskResult:
    """The result of one task on these of its examples, from any model that the harness knows."""
    asked = PackConfigurableTask(task, examples, few_shots(task, examples, seed))
    found = evaluate(lm, {"tasks": {task.name: asked}, "groups": {}}, bootstrap_iters=0)
    truncated = lm.truncated if isinstance(lm, HarnessModel) else set()
    scores = []
    num_truncated = 0
    for example, sample in zip(examples, found["samples"][task.name], strict=True):
        assert sample["doc"]["id"] == example.id, "the harness answers in the order of the rows"
        num_truncated += any(tuple(texts) in truncated for texts in sample["arguments"])
        scores.append(_example_score(example, sample))
    metrics: dict[str, float] = {
        metric: float(found["results"][task.name][f"{metric},none"]) for metric in METRICS[task.kind]
    }
    return TaskResult(
        task=task.name,
        kind=task.kind,
        num_examples=len(scores),
        metrics=metrics,
        main_metric=task.main_metric,
        chance=task.chance,
        higher_is_better=task.higher_is_better,
        examples=tuple(scores),
        num_truncated=num_truncated,
    )


def _aggregation(metric: str) -> Callable[[Sequence[Any]], float]:
    """The harness' own, with infinity for a perplexity that no float holds, where it stops with an error."""
    of_harness = get_metric_aggregation(metric)

    def aggregated(items: Sequence[Any]) -> float:
        try:
            return float(of_harness(items))
        except OverflowError:
            return math.inf

    return aggregated


def _harness_row(task: PackTask, example: Example, shots: str) -> dict[str, Any]:
    row = example.row
    if task.kind == "multiple_choice":
        asked = {"prompt": shots + _prompt(task, example), "choices": row["choices"], "target": row["gold"]}
    elif task.kind == "minimal_pairs":
        # which comes first is the id's affair: a model that finds both equally probable is right half of the time
        gold = int(example.id[0], 16) % 2
        pair = [row["good"], row["bad"]]
        asked = {"prompt": "", "choices": pair[::-1] if gold else pair, "target": gold}
    elif task.kind == "last_word":
        asked = {"prompt": row["context"], "target": f" {row['word']}"}
    else:
        asked = {"prompt": "", "target": row["text"]}
    return {"id": example.id, **asked}


def _prompt(task: PackTask, example: Example) -> str:
    query: str = example.row["query"]
    return query + task.entry.prompt_end


def few_shots(task: PackTask, examples: Sequence[Example], seed: int) -> dict[str, str]:
    """By id, solved examples of the task to put before the query: each asks something else, and they are the same for
    every choice of examples to evaluate."""
    if not task.num_fewshot:
        return {}
    by_prompt = {_prompt(task, example): example for example in task.examples()}  # a file may hold a question twice
    if len(by_prompt) <= task.num_fewshot:
        raise ValueError(
            f"{task.name} has {len(by_prompt)} different examples, too few for {task.num_fewshot} before each query"
        )
    prompts = list(by_prompt)
    shots = {}
    for example in examples:
        key = hashlib.sha256(f"{seed}/{example.id}".encode()).digest()
        drawn = random.Random(key).sample(prompts, task.num_fewshot + 1)  # noqa: S311
        own = _prompt(task, example)
        rows = [(prompt, by_prompt[prompt].row) for prompt in drawn if prompt != own][: task.num_fewshot]
        shots[example.id] = "".join(f"{prompt} {row['choices'][row['gold']]}\n\n" for prompt, row in rows)
    return shots


def _example_score(example: Example, sample: Mapping[str, Any]) -> ExampleScore:
    values: dict[str, float] = {}
    weights: dict[str, float] = {}
    for metric in sample["metrics"]:
        value = sample[metric]
        if isinstance(value, tuple):  # of a text: its log-likelihood, and its length in words or bytes
            values[LOGLIKELIHOOD] = float(value[0])
            weights[WORDS if metric == "word_perplexity" else BYTES] = float(value[1])
        else:
            values[metric] = float(value)
    return ExampleScore(example.id, values, example.part, weights)
