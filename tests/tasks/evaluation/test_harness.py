"""The harness on our network: every figure against one computed by hand from the rows."""

from __future__ import annotations

import math
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from lm_eval.api.instance import Instance
from tokenizers import Tokenizer

from model.config import DecoderConfig, padded_vocab_size
from model.decoder import Decoder
from tasks.evaluation.bits_per_byte import score_texts, summed
from tasks.evaluation.harness import HarnessModel, PackConfigurableTask, evaluate_tasks, few_shots
from tasks.evaluation.loglikelihood import LocalScorer
from tasks.evaluation.pack_rows import RowError
from tasks.evaluation.task_pack import METRICS, TaskPack, load_pack
from tasks.evaluation.task_result import TaskResult, aggregate
from tasks.tokenizer import END_OF_TEXT_ID, TokenizerConfig, train_tokenizer
from tests.data.prose import prose
from tests.tasks.evaluation.own_pack import ROWS, jsonl, write_file, write_pack

MAX_POSITIONS = 64


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([prose(number) for number in range(20)], TokenizerConfig(vocab_size=400))


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Decoder:
    torch.manual_seed(0)
    return Decoder(
        DecoderConfig(
            vocab_size=padded_vocab_size(tokenizer.get_vocab_size()),
            d_model=32,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            d_ff=48,
            max_seq_len=MAX_POSITIONS,
            init_std=0.3,
        )
    )


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> TaskPack:
    return load_pack(write_pack(tmp_path_factory.mktemp("pack")))


@pytest.fixture(scope="module")
def results(model: Decoder, tokenizer: Tokenizer, pack: TaskPack) -> dict[str, TaskResult]:
    return {result.task: result for result in evaluate_tasks(LocalScorer(model), tokenizer, pack)}


def by_hand(model: Decoder, tokenizer: Tokenizer, context: str, continuation: str) -> tuple[float, bool]:
    """In float64, with the whole text encoded at once, as `TemplateLM._encode_pair` does."""
    before = [END_OF_TEXT_ID, *tokenizer.encode(context).ids]
    tokens = [END_OF_TEXT_ID, *tokenizer.encode(context + continuation).ids]
    num_scored = len(tokens) - len(before)
    tokens = tokens[-(MAX_POSITIONS + 1) :]
    with torch.no_grad():
        logits = model(torch.tensor([tokens[:-1]]))[0, -num_scored:].double().log_softmax(-1)
    targets = torch.tensor(tokens[-num_scored:])
    nats = float(logits.gather(1, targets[:, None]).sum())
    return nats, bool((logits.argmax(-1) == targets).all())


def test_multiple_choice_is_what_the_rows_say(model: Decoder, tokenizer: Tokenizer, results: dict[str, TaskResult]):
    found = results["choices"]
    for row, example in zip(ROWS["choices"], found.examples, strict=True):
        nats = [by_hand(model, tokenizer, f"{row['query'].strip()}\nAnswer:", f" {c}")[0] for c in row["choices"]]
        per_char = [each / len(choice) for each, choice in zip(nats, row["choices"], strict=True)]
        assert example.values["acc"] == (max(range(3), key=nats.__getitem__) == row["gold"])
        assert example.values["acc_norm"] == (max(range(3), key=per_char.__getitem__) == row["gold"])
    assert 0 < found.metrics["acc"] < 1, "a test in which every answer is the same would prove little"


def test_last_words_are_what_the_rows_say(model: Decoder, tokenizer: Tokenizer, results: dict[str, TaskResult]):
    found = results["words"]
    by_row = [by_hand(model, tokenizer, row["context"], f" {row['continuation']}") for row in ROWS["words"]]
    assert [example.values["perplexity"] for example in found.examples] == pytest.approx(
        [nats for nats, _ in by_row], rel=1e-5
    )
    assert [example.values["acc"] for example in found.examples] == [float(greedy) for _, greedy in by_row]
    assert found.metrics["perplexity"] == pytest.approx(math.exp(-sum(nats for nats, _ in by_row) / 2), rel=1e-5)
    assert found.num_truncated == 1, "the second context is longer than the network"


def test_sentences_of_a_pair_begin_a_document(model: Decoder, tokenizer: Tokenizer, results: dict[str, TaskResult]):
    for row, example in zip(ROWS["pairs"], results["pairs"].examples, strict=True):
        good, bad = (by_hand(model, tokenizer, "", row[key])[0] for key in ("right", "wrong"))
        assert example.values == {"acc": float(good > bad)}


def nats_by_windows(model: Decoder, tokens: list[int]) -> float:
    """Code length of a text: each window predicts what is new in it, from as many tokens as the model reads."""
    nats = 0.0
    for start in range(0, len(tokens), MAX_POSITIONS):
        end = min(start + MAX_POSITIONS, len(tokens))
        read = [END_OF_TEXT_ID, *tokens[: end - 1]] if start == 0 else tokens[end - 1 - MAX_POSITIONS : end - 1]
        with torch.no_grad():
            log_probabilities = model(torch.tensor([read]))[0].log_softmax(-1)[start - end :]
        nats -= float(log_probabilities[range(end - start), tokens[start:end]].sum())
    return nats


def test_perplexity_is_by_windows_with_a_full_context(
    model: Decoder, tokenizer: Tokenizer, results: dict[str, TaskResult]
):
    texts = [row["text"] for row in ROWS["texts"]]
    tokens = [tokenizer.encode(text).ids for text in texts]
    assert max(map(len, tokens)) > 2 * MAX_POSITIONS and min(map(len, tokens)) < MAX_POSITIONS
    each = [nats_by_windows(model, ids) for ids in tokens]
    nats, num_bytes = sum(each), sum(len(text.encode()) for text in texts)
    found = results["texts"]
    assert found.metrics["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)
    assert found.metrics["byte_perplexity"] == pytest.approx(math.exp(nats / num_bytes), rel=1e-5)
    num_words = sum(example.weights["words"] for example in found.examples)
    assert found.metrics["word_perplexity"] == pytest.approx(math.exp(nats / num_words), rel=1e-5)
    for expected, text, example in zip(each, texts, found.examples, strict=True):
        assert -example.values["loglikelihood"] == pytest.approx(expected, rel=1e-5)
        assert example.weights["bytes"] == len(text.encode())
        if len(tokenizer.encode(text).ids) <= MAX_POSITIONS:  # as held-out text is scored
            alone = summed([score_texts(model, tokenizer, [text])])
            assert expected == pytest.approx(alone.bits_per_byte * math.log(2) * alone.num_bytes, rel=1e-5)


def test_every_metric_is_made_of_its_examples(pack: TaskPack, results: dict[str, TaskResult]):
    for task in pack.tasks:
        found = results[task.name]
        assert found.num_examples == len(found.examples) == len(ROWS[task.name])
        assert [example.id for example in found.examples] == [example.id for example in task.examples()]
        assert set(found.metrics) == set(METRICS[task.kind])
        for metric, value in found.metrics.items():
            assert aggregate(metric, found.examples) == pytest.approx(value, rel=1e-12)


def test_a_model_that_knows_nothing_is_not_right_by_the_order_of_a_pair(tmp_path: Path):
    """All sentences are equally probable to it, and numpy's argmax takes the first."""
    rows = [{"right": f"{letter} a", "wrong": f"{letter} b"} for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNO"]
    file = write_file(tmp_path, "rows/pairs.jsonl", jsonl(rows))
    task = load_pack(write_pack(tmp_path, pairs={"files": [file]})).tasks[2]
    asked = PackConfigurableTask(task, task.choose(None), {})
    gold = [row["target"] for row in asked.eval_docs]
    assert all(row["choices"][row["target"]].endswith("a") for row in asked.eval_docs)
    assert 0.25 < sum(gold) / len(gold) < 0.75


def test_needs_no_network_and_leaves_nothing_behind(
    tmp_path: Path, model: Decoder, tokenizer: Tokenizer, pack: TaskPack, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: Any) -> None:
        raise AssertionError("evaluation reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    evaluate_tasks(LocalScorer(model), tokenizer, pack)
    assert list(tmp_path.iterdir()) == []


def test_a_limit_takes_the_same_examples_each_time_and_progress_is_told(
    model: Decoder, tokenizer: Tokenizer, pack: TaskPack, results: dict[str, TaskResult]
):
    told: list[tuple[str, int, int]] = []
    limited = evaluate_tasks(
        LocalScorer(model, batch_tokens=64),
        tokenizer,
        replace(pack, tasks=(pack.tasks[0], pack.tasks[2])),
        limit=3,
        progress=lambda *step: told.append(step),
    )
    assert [result.task for result in limited] == ["choices", "pairs"]
    tasks = {task.name: task for task in pack.tasks}
    for result in limited:
        whole = {example.id: example.values for example in results[result.task].examples}
        assert [(example.id, example.values) for example in result.examples] == [
            (example.id, whole[example.id]) for example in tasks[result.task].choose(3)
        ]
    assert {name for name, _, _ in told} == {"choices", "pairs"}
    assert [step for step in told if step[0] == "choices"][-1] == ("choices", 9, 9)
    assert [step for step in told if step[0] == "pairs"][-1] == ("pairs", 6, 6)


def test_solved_examples_are_others_and_do_not_depend_on_the_limit(tmp_path: Path):
    task = load_pack(write_pack(tmp_path, choices={"num_fewshot": 2})).tasks[0]
    everything = few_shots(task, task.choose(None), 0)
    assert few_shots(task, task.choose(2), 0).items() <= everything.items()
    assert few_shots(task, task.choose(None), 1) != everything
    for example in task.examples():
        shots = everything[example.id]
        assert shots.count("Question: ") == shots.count("\nAnswer: it ") == 2
        assert shots.endswith("\n\n")
        assert example.row["query"] not in shots
    first = task.choose(None)[0]
    (row,) = PackConfigurableTask(task, [first], everything).eval_docs
    assert row["prompt"] == f"{everything[first.id]}{first.row['query']}\nAnswer:"
    too_many = load_pack(write_pack(tmp_path / "many", choices={"num_fewshot": 6})).tasks[0]
    with pytest.raises(ValueError, match="choices has 6 different examples, too few for 6 before each query"):
        few_shots(too_many, too_many.choose(1), 0)


def test_a_question_that_is_there_twice_never_stands_solved_before_itself(tmp_path: Path):
    rows = [*ROWS["choices"][:3], *[ROWS["choices"][0]] * 5]
    file = write_file(tmp_path, "twice.jsonl", jsonl(rows))
    task = load_pack(write_pack(tmp_path, choices={"files": [file], "num_fewshot": 2})).tasks[0]
    shots = few_shots(task, task.choose(None), 0)
    assert len(shots) == 8
    for example in task.examples():
        assert example.row["query"] not in shots[example.id]
        assert shots[example.id].count("Question: ") == len(set(shots[example.id].split("\n\n")[:-1])) == 2


def test_wrong_input_is_refused_before_the_model_is_asked(
    tmp_path: Path, model: Decoder, tokenizer: Tokenizer, pack: TaskPack, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was asked")

    scorer = LocalScorer(model)
    monkeypatch.setattr(scorer, "loglikelihoods", refuse)
    spoilt = load_pack(write_pack(tmp_path, texts={"keys": {"text": "body"}}))
    with pytest.raises(RowError, match=r"texts\.jsonl, line 1: the field 'body' \(text of a perplexity task\)"):
        evaluate_tasks(scorer, tokenizer, spoilt)
    (tmp_path / "texts.jsonl").write_text('{"text": "changed"}\n')
    with pytest.raises(ValueError, match=r"texts\.jsonl is not the file that the pack describes"):
        evaluate_tasks(scorer, tokenizer, load_pack(tmp_path))


def test_a_tokenizer_with_tokens_that_the_model_has_not_is_refused(model: Decoder, pack: TaskPack):
    other = train_tokenizer([prose(number) for number in range(60)], TokenizerConfig(vocab_size=500))
    assert other.get_vocab_size() > model.config.vocab_size
    with pytest.raises(ValueError, match=r"vocabulary has 448 entries, the tokenizer's \d+: evaluate a model with"):
        evaluate_tasks(LocalScorer(model), other, pack)


def test_a_tokenizer_that_stayed_small_is_none_of_another_model(model: Decoder, pack: TaskPack):
    """Of a small corpus come fewer tokens than the recipe asks for, and makes the network for."""
    small = train_tokenizer(["another text"], TokenizerConfig(vocab_size=259))
    assert len(evaluate_tasks(LocalScorer(model), small, replace(pack, tasks=pack.tasks[2:3]))) == 1


def test_the_harness_encodes_as_training_did(model: Decoder, tokenizer: Tokenizer):
    lm = HarnessModel(LocalScorer(model), tokenizer, progress=None)
    plain = tokenizer.encode("<|end_of_text|> a").ids
    assert END_OF_TEXT_ID not in plain, "a text that spells the token out does not end a document"
    assert lm.tok_encode("<|end_of_text|> a") == [END_OF_TEXT_ID, *plain]
    assert lm.tok_encode("a", add_special_tokens=False) == tokenizer.encode("a").ids
    context, continuation = lm._encode_pair("the road ", "was old")
    assert tokenizer.decode(context, skip_special_tokens=True) == "the road"
    assert tokenizer.decode(continuation) == " was old"
    assert lm.tok_encode("half \ud800")[1:] == tokenizer.encode("half \ufffd").ids


def test_generates_up_to_a_stop_string(model: Decoder, tokenizer: Tokenizer):
    lm = HarnessModel(LocalScorer(model), tokenizer, progress=None)

    def generated(context: str, **options: Any) -> str:
        (text,) = lm.generate_until([Instance("generate_until", {}, (context, options), 0)])
        return text

    whole = generated("The old clock", max_gen_toks=20, until=[])
    assert len(whole) > 4
    stop = whole[3:5]
    assert generated("The old clock", max_gen_toks=20, until=[stop, "never"]) == whole[: whole.index(stop)]
    assert generated(prose(1, 20), max_gen_toks=200, until=[]), "a context that is too long loses its beginning"
