"""`tokenmill generate` as a person meets it: prompts from everywhere, and a dialogue on a terminal of its own."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from flows.arguments import parser
from flows.generate_command import generate
from tasks.generation import TextGenerator
from tasks.store import Store
from tests.infra.small_model import small_model

SHORT = ("--max-tokens", "8", "--seed", "3")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = small_model(tmp_path_factory.mktemp("model"))
    (folder / tokenizer.name).write_bytes(tokenizer.read_bytes())
    return folder


@pytest.fixture(scope="module")
def generator(checkpoint: Path) -> TextGenerator:
    return TextGenerator.load(checkpoint, checkpoint / "tokenizer.json")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path)


def run(store: Store, checkpoint: Path, *words: str) -> int:
    return generate(parser().parse_args(["generate", "--model", str(checkpoint), *words]), store)


def test_one_prompt_is_shown_with_what_follows(
    store: Store, checkpoint: Path, generator: TextGenerator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(store, checkpoint, "--prompt", "The", *SHORT) == 0
    assert capsys.readouterr().out == "The" + generator.continuation("The", max_new_tokens=8, seed=3) + "\n"


def test_several_prompts_are_one_batch_and_one_object(
    store: Store, checkpoint: Path, generator: TextGenerator, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_bytes("A walk\r\n\n né 😀\n".encode("utf-8-sig"))
    words = ("--prompt", "The", "--prompts-file", str(tmp_path / "prompts.txt"), *SHORT)
    prompts = ["The", "A walk", " né 😀"]
    texts = [generator.continuation(prompt, max_new_tokens=8, seed=3) for prompt in prompts]
    assert run(store, checkpoint, *words) == 0
    shown = capsys.readouterr().out
    assert shown == "".join(f"--- {n} of 3\n{p}{t}\n" for n, (p, t) in enumerate(zip(prompts, texts, strict=True), 1))
    assert run(store, checkpoint, *words, "--json") == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [each["continuation"] for each in answer["answers"]] == texts
    assert [each["prompt"] for each in answer["answers"]] == prompts and answer["model"] == str(checkpoint)


def test_options_reach_the_model(
    store: Store, checkpoint: Path, generator: TextGenerator, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--prompt", "The", "--max-tokens", "30", "--temperature", "0.7", "--top-k", "0", "--top-p", "0.9"]
    assert run(store, checkpoint, *words, "--repetition-penalty", "1.3", "--seed", "5") == 0
    whole = capsys.readouterr().out
    text = generator.continuation(
        "The", max_new_tokens=30, temperature=0.7, top_k=None, top_p=0.9, repetition_penalty=1.3, seed=5
    )
    assert whole == f"The{text}\n"
    stop = text[6:8]
    words += ["--repetition-penalty", "1.3", "--seed", "5", f"--stop={stop}", "--stop", "never there"]
    assert run(store, checkpoint, *words) == 0
    assert capsys.readouterr().out == f"The{text[: text.index(stop)]}\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "a", "--prompt", ""], "the prompt is empty"),
        (["--prompt", "a\udcff"], "--prompt is no UTF-8 text: byte 1 is 0xff"),
        (["--prompts-file", "bad.txt"], "bad.txt is no UTF-8 text: byte 4 is 0xff"),
        (["--prompts-file", "none.txt"], "there is no prompt in"),
        (["--prompts-file", "absent.txt"], "there is no file .*absent.txt: name one with a prompt a line"),
        (["--prompts-file", "."], "there is no file .*: name one with a prompt a line"),
        (["--prompt", "qx" * 60], "new ones exceed the model's 64 positions"),
        (["--prompt", "a", "--prompt", "b" * 99], "prompt 2: a prompt of"),
        (["--prompt", "a", "--max-tokens", "0"], "max_new_tokens is 0"),
        (["--prompt", "a", "--temperature", "nan"], "temperature is nan"),
        (["--prompt", "a", "--top-p", "1.5"], "top_p is 1.5"),
        (["--prompt", "a", "--top-k", "-1"], "top_k is -1"),
        (["--prompt", "a", "--seed", "-1"], "seed is -1"),
        (["--prompt", "a", "--stop", ""], "a stop string has 0 characters"),
        (["--prompt", "a", "--max-rows", "0"], "--max-rows is 0"),
    ],
)
def test_what_can_not_work_is_one_clear_error(
    store: Store,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.txt").write_bytes(b"one\n\xff\n")
    Path("none.txt").write_bytes(b"\n \n")
    short = [] if "--max-tokens" in words else ["--max-tokens", "8"]
    with pytest.raises((ValueError, OSError), match=expected):
        run(store, checkpoint, *words, *short)
    assert capsys.readouterr().out == "", "nothing is shown of what can not work"


def command(store: Store, checkpoint: Path, *words: str) -> list[str]:
    start = [sys.executable, "-P", "-m", "flows.cli", "generate", "--store", str(store.root)]
    return [*start, "--model", str(checkpoint), *words]


@pytest.mark.verify
def test_standard_input_is_the_prompt_where_there_is_no_other(
    store: Store, checkpoint: Path, generator: TextGenerator, tmp_path: Path
) -> None:
    piped = subprocess.run(command(store, checkpoint, *SHORT), input=b"The\n", capture_output=True, check=False)
    text = generator.continuation("The", max_new_tokens=8, seed=3)
    assert piped.stdout.decode() == f"The{text}\n" and piped.returncode == 0
    for content, expected in ((b"", "the prompt is empty"), (b"\xff", "standard input is no UTF-8 text")):
        refused = subprocess.run(command(store, checkpoint), input=content, capture_output=True, check=False)
        assert refused.returncode == 2 and expected in refused.stderr.decode()
        assert "Traceback" not in refused.stderr.decode() and refused.stdout == b""


class Terminal:
    """What a person types and sees."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.seen = ""

    def types(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def sees(self, text: str) -> str:
        """What has come up to the end of `text`, which it waits for."""
        end = time.monotonic() + 60
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self._descriptor], [], [], 1)[0]:
                try:
                    self.seen += os.read(self._descriptor, 65536).decode(errors="replace")
                except OSError:  # its end
                    break
        before, found, after = self.seen.partition(text)
        assert found, self.seen
        self.seen = after
        return before + found


def at_rest(process: subprocess.Popen[bytes]) -> None:
    """Waits until it waits for a key: before that, with the line on the screen, Python's readline hears no signal."""
    end = time.monotonic() + 60
    while psutil.Process(process.pid).status() != psutil.STATUS_SLEEPING:
        assert time.monotonic() < end


@contextmanager
def dialogue(store: Store, checkpoint: Path, *words: str) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(store, checkpoint, *words),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env={**os.environ, "TERM": "dumb"},
    )
    os.close(theirs)
    try:
        yield Terminal(ours), process
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.verify
def test_a_dialogue_answers_line_by_line_until_its_end(
    store: Store, checkpoint: Path, generator: TextGenerator
) -> None:
    def shown(prompt: str, seed: int) -> str:
        text = generator.continuation(prompt, max_new_tokens=8, seed=seed)
        printed = "".join(each if each.isprintable() or each == "\n" else " " for each in prompt + text)
        return printed.replace("\n", "\r\n")

    with dialogue(store, checkpoint, *SHORT) as (terminal, process):
        assert "Ctrl-D ends" in terminal.sees("\r\n> ")
        for number in range(2):  # asked again, it answers something else
            terminal.types("The\n")
            terminal.sees("The\r\n")
            assert terminal.sees("\r\n> ").startswith(shown("The", 3 + number))
        terminal.types("\n")
        terminal.sees("> ")
        terminal.types("a " * 60 + "\n")
        assert "exceed the model's 64 positions" in terminal.sees("> ").replace("\r\n", "")
        terminal.types("\x1b[A\x1b[A\n")  # arrow up, twice: the line before the last
        terminal.sees("The\r\n")
        terminal.sees("\r\n> ")
        terminal.types("half a line")
        terminal.sees("half a line")
        at_rest(process)
        process.send_signal(signal.SIGINT)  # at the prompt: a new one
        terminal.sees("> ")
        terminal.types("\x04")
        assert process.wait(60) == 0


@pytest.mark.verify
def test_an_answer_can_be_stopped_and_the_dialogue_goes_on(store: Store, tmp_path: Path) -> None:
    from tests.flows.long_model import long_model

    with dialogue(store, long_model(tmp_path / "long"), "--max-tokens", "15000", "--temperature", "0") as (
        terminal,
        process,
    ):
        terminal.sees("\r\n> ")
        terminal.types("The\n")
        terminal.sees("The\r\nThe")
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        terminal.sees("[stopped]\r\n> ")
        terminal.types("\x04")
        assert process.wait(60) == 0
