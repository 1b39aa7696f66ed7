"""`tokenmill generate`: continues one prompt as it is drawn, several together, or one after another in a dialogue."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from flows.option_types import local_path, model_reference

if TYPE_CHECKING:
    from tasks.generation import Options, TextGenerator
    from tasks.store import Store

_HINT = "an empty line asks again, Ctrl-C stops an answer, Ctrl-D ends"


def add_options(command: argparse.ArgumentParser) -> None:
    """What a value may be is decided by `model.sampling.Sampling`, in one place."""
    command.epilog = (
        "examples: `tokenmill generate --model web-smoke --prompt 'Once upon'`; with `--prompts-file prompts.txt"
        " --json` a batch; `echo 'Once upon' | tokenmill generate --model models:/web-smoke@champion`. On a terminal,"
        " without a prompt, a dialogue: an answer to each line"
    )
    command.add_argument(
        "--model",
        required=True,
        type=model_reference,
        metavar="M",
        help="name[@version|@alias], models:/..., or a checkpoint by folder or URL",
    )
    command.add_argument("--prompt", action="append", default=[], metavar="P", help="may be repeated: a batch")
    command.add_argument(
        "--prompts-file", type=local_path, metavar="FILE", help="a prompt a line; empty lines are left out"
    )
    command.add_argument("--max-tokens", type=int, default=64, metavar="N", help="new ones at most (default: 64)")
    command.add_argument(
        "--temperature", type=float, default=0.8, metavar="T", help="0 takes the likeliest token (default: 0.8)"
    )
    command.add_argument(
        "--top-k", type=int, default=50, metavar="K", help="draw from the likeliest K tokens (default: 50; 0: all)"
    )
    command.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="and of them from the fewest that reach P (default: 1)"
    )
    command.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="F", help="above 1 repeats less (default: 1)"
    )
    command.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be repeated"
    )
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of the draws (default: 0)")
    command.add_argument("--max-rows", type=int, default=8, metavar="N", help="prompts at a time (default: 8)")


def generate(options: argparse.Namespace, store: Store) -> int:
    """ValueError for prompts and options that can not work, before the model is loaded where that is possible."""
    if options.max_rows < 1:
        raise ValueError(f"--max-rows is {options.max_rows}; it must be at least 1")
    talk = not options.prompt and not options.prompts_file and sys.stdin.isatty()
    if talk and options.json:
        raise ValueError("--json needs a --prompt, a --prompts-file, or one on standard input")
    prompts = [] if talk else _prompts(options)
    from infra.registry import find_model
    from tasks.generation import TextGenerator

    version = find_model(store, options.model)
    generator = TextGenerator.load(version.folder, version.tokenizer_file)
    chosen = _chosen(options)
    if talk:
        return _talk(generator, version.reference, chosen)
    if len(prompts) == 1 and not options.json:
        _show(generator, prompts[0], chosen)
        return 0
    texts = generator.continuations(prompts, max_rows=options.max_rows, **chosen)
    answers = [{"prompt": prompt, "continuation": text} for prompt, text in zip(prompts, texts, strict=True)]
    if not options.json:
        for number, answer in enumerate(answers, start=1):
            print(f"--- {number} of {len(answers)}\n{_shown(answer['prompt'] + answer['continuation'])}")
    else:
        print(json.dumps({"model": version.reference, "answers": answers}))
    return 0


def _chosen(options: argparse.Namespace) -> Options:
    return {
        "max_new_tokens": options.max_tokens,
        "temperature": options.temperature,
        "top_k": options.top_k or None,
        "top_p": options.top_p if options.top_p != 1 else None,
        "repetition_penalty": options.repetition_penalty,
        "seed": options.seed,
        "stop": tuple(options.stop),
    }


def _prompts(options: argparse.Namespace) -> list[str]:
    """Those of the options and the file, else standard input as one."""
    prompts = [_utf8(prompt.encode("utf-8", "surrogateescape"), "--prompt") for prompt in options.prompt]
    if options.prompts_file and not options.prompts_file.is_file():
        raise ValueError(f"there is no file {options.prompts_file}: name one with a prompt a line")
    if options.prompts_file:
        lines = _utf8(options.prompts_file.read_bytes(), str(options.prompts_file)).split("\n")
        prompts += [line.removesuffix("\r") for line in lines if line.strip()]
        if not prompts:
            raise ValueError(f"there is no prompt in {options.prompts_file}")
    elif not prompts:
        prompts = [_utf8(sys.stdin.buffer.read(), "standard input").removesuffix("\n")]
    if not all(prompts):
        raise ValueError("the prompt is empty; give some text to continue")
    return prompts


def _utf8(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")  # some editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is no UTF-8 text: byte {error.start:,} is {content[error.start]:#04x}") from error


def _show(generator: TextGenerator, prompt: str, chosen: Options) -> None:
    """Prompt and continuation, as it is drawn."""
    pieces = generator.stream(prompt, **chosen)  # what can not work is said before anything is shown
    sys.stdout.write(_shown(prompt))
    for piece in pieces:
        sys.stdout.write(_shown(piece))
        sys.stdout.flush()
    print()


def _shown(text: str) -> str:
    """On a terminal nothing that would steer it; elsewhere the text as it is."""
    from tasks.diff_report import printable

    return printable(text) if sys.stdout.isatty() else text


def _talk(generator: TextGenerator, reference: str, chosen: Options) -> int:
    """Prompts from the terminal until its end. Each answer has the next seed, so that asking again gives another."""
    import readline  # noqa: F401 - gives `input` its history and editing

    print(f"{reference}; {_HINT}")
    first = chosen["seed"]
    num_answers = 0
    while True:
        try:
            prompt = input("> ")
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print()
            continue
        except UnicodeDecodeError as error:
            print(f"tokenmill: that is no UTF-8 text: {error.reason}", file=sys.stderr)
            continue
        if not prompt:
            continue
        try:
            _show(generator, prompt, {**chosen, "seed": first + num_answers})
        except KeyboardInterrupt:
            print(" [stopped]")
        except ValueError as error:
            print(f"tokenmill: {error}", file=sys.stderr)
        num_answers += 1
