"""The `tokenmill` command: a thin front to the flows. Heavy imports happen only where they are used.

Exit codes: 0 done; 2 something the user can mend, said in one line; 1 a fault of this software; 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.store import Store

_INTERRUPTED = "interrupted; run the same command again to go on from where it stopped"
_SUPERVISED = frozenset({"refresh", "pretrain", "evaluate", "pipeline"})  # they start servers and Ray
_SUPERVISED_VARIABLE = "TOKENMILL_SUPERVISED"
_MIN_FREE_BYTES = 64 << 20  # the two histories of a new store take 10 MB; Prefect's server tries for 2 minutes
_RECIPES = {"curation": ("fineweb", "documentation"), "pretraining": ("smoke", "small", "base")}


def _key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form key=value")
    return key, value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tokenmill", description="From raw web pages to a trained language model, with every record accounted for."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    store = argparse.ArgumentParser(add_help=False)
    store.add_argument("--store", metavar="DIR", help="the store's folder (default: $TOKENMILL_STORE, else ./store)")
    run = argparse.ArgumentParser(add_help=False, parents=[store])
    run.add_argument("--json", action="store_true", help="print one JSON object as the last line of standard output")
    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        type=_key_value,
        action="append",
        default=[],
        help="change one setting of the recipe, such as gopher_quality.min_words=30; may be repeated",
    )

    def add(name: str, help_: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help_, description=help_, parents=parents)

    refresh = add("refresh", "Raw pages to a published corpus version.", run, settings)
    refresh.add_argument(
        "--source",
        required=True,
        metavar="S",
        help="path, glob, folder, s3:// or http(s):// address of WARC, WET, HTML, JSONL or Parquet files;"
        " or environment-docs[:PAGES|:all], the documentation of the installed packages",
    )
    refresh.add_argument("--name", required=True, metavar="N", help="corpus name; its next version is published")
    refresh.add_argument("--recipe", default="fineweb", metavar="R", help=" or ".join(_RECIPES["curation"]))
    refresh.add_argument("--workers", type=_positive, metavar="N", help="shards at a time (default: all CPUs of Ray)")

    pretrain = add("pretrain", "A corpus version to a registered model version.", run, settings)
    pretrain.add_argument("--corpus", required=True, metavar="N[@V]", help="corpus name, or name@version")
    pretrain.add_argument("--recipe", default="smoke", metavar="R", help=", ".join(_RECIPES["pretraining"]))
    pretrain.add_argument("--model", default="", metavar="NAME", help="name in the registry (default: corpus-recipe)")
    pretrain.add_argument("--workers", type=_positive, default=1, metavar="N", help="training processes (default: 1)")

    evaluate = add("evaluate", "A model version to its scores on held-out documents.", run)
    evaluate.add_argument("--model", required=True, metavar="M", help="name[@version|@alias] or a checkpoint folder")
    evaluate.add_argument("--max-documents", type=_positive, default=200, metavar="N", help="documents scored at most")

    pipeline = add("pipeline", "The whole job: raw pages to a trained, evaluated model.", run, settings)
    pipeline.add_argument("--source", default="environment-docs", metavar="S", help="as for refresh")
    pipeline.add_argument(
        "--pages", metavar="N|all", help="pages of the default source (default 2500, the most but for all)"
    )
    pipeline.add_argument("--name", metavar="N", help="corpus name (default: from the source)")
    pipeline.add_argument(
        "--curation", metavar="R", help="fineweb, or documentation (the default for the default source)"
    )
    pipeline.add_argument("--pretraining", default="smoke", metavar="R", help=", ".join(_RECIPES["pretraining"]))
    pipeline.add_argument("--workers", type=_positive, metavar="N", help="shards at a time (default: all CPUs of Ray)")

    generate = add("generate", "Continue a prompt with a model.", store)
    generate.add_argument("--model", required=True, metavar="M", help="name[@version|@alias] or a checkpoint folder")
    generate.add_argument("--prompt", required=True, metavar="P")
    generate.add_argument("--max-tokens", type=_positive, default=64, metavar="N")
    generate.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0 takes the likeliest token")
    generate.add_argument("--top-k", type=_positive, default=50, metavar="K")
    generate.add_argument("--seed", type=int, default=0, metavar="S")

    add("corpora", "Published corpus versions.", run)
    show = add("show", "One corpus version: funnel, recipe, where it lies.", run)
    show.add_argument("corpus", metavar="N[@V]")
    up = add("up", "Serve Prefect and MLflow on this store's history, with the flows to trigger, until Ctrl-C.", store)
    up.add_argument("--prefect-port", type=_positive, default=4200, metavar="P")
    up.add_argument("--mlflow-port", type=_positive, default=5000, metavar="P")
    add("doctor", "Check versions, models, storage, Ray, Prefect and MLflow.", run)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    if options.command in _SUPERVISED and not os.environ.get(_SUPERVISED_VARIABLE):
        sys.exit(_supervise(given))
    try:
        code = _COMMANDS[options.command](options)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "TerminationSignal":  # Prefect's own name
            if not os.environ.get(_SUPERVISED_VARIABLE):
                _complain(_INTERRUPTED)
            sys.exit(130)
        line = _user_line(error)
        if line is None:
            raise
        _complain(line)
        code = 2
    sys.exit(code)


def _supervise(arguments: list[str]) -> int:
    """Run the command in a process below a supervisor, so that nothing outlives it: no Ray daemon, no server.

    However this process or that one ends, `infra.tied` ends what they started. A signal to stop is passed on once.
    """
    import signal
    import subprocess

    python = [sys.executable, "-P"]
    process = subprocess.Popen(
        [*python, "-m", "infra.tied", *python, "-c", "from flows.cli import main; main()", *arguments],
        stdin=subprocess.PIPE,
        env={**os.environ, _SUPERVISED_VARIABLE: "1"},
    )
    tie = process.stdin
    assert tie is not None
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        tie.close()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    code = process.wait()
    if stopped and code != 0:
        _complain(_INTERRUPTED)
        return 130
    return code


def _interrupt_once() -> None:
    """Any signal to stop becomes one KeyboardInterrupt; what comes after it does not disturb the cleaning up."""
    import signal

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(number: int, frame: object) -> None:
        for each in numbers:
            signal.signal(each, lambda *_: None)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupt)


def _complain(line: str) -> None:
    if "flows.console" in sys.modules:  # a progress bar has no end of line yet
        sys.modules["flows.console"].console.close()
    print(f"tokenmill: {line}", file=sys.stderr)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and every one that it was raised from or while handling."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__]


def _disk_is_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    return getattr(error, "sqlite_errorcode", None) == 13  # SQLITE_FULL (sqlite3.h)


def _user_line(error: BaseException) -> str | None:
    """One line, where the error is one that the user can mend; None for a fault of ours."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        if first["type"] == "literal_error":
            return f"{field}: there is no {first['input']!r}; there is {first['ctx']['expected']}"
        return f"{field}: {first['msg']}"
    if any(_disk_is_full(each) for each in _causes(error)):  # what could not be recorded hides what went wrong
        return "the disk is full: free some space (or choose another --store) and run the same command again"
    if isinstance(error, ValueError | OSError):
        return " ".join(str(error).split())
    if error.__cause__ is not None and type(error).__name__ == "ShardError":
        cause = _user_line(error.__cause__)
        return None if cause is None else f"{cause} ({str(error).split(':')[0]})"
    return None


def _enter(options: argparse.Namespace) -> Store:
    """The store, with this process made its driver; relative paths have been resolved by then."""
    from infra.settings import default_store, enter
    from tasks.store import Store

    store = Store.open(options.store or default_store())
    enter(store)
    if options.command in _SUPERVISED:
        if shutil.disk_usage(store.root).free < _MIN_FREE_BYTES:
            raise OSError(errno.ENOSPC, f"less than {_MIN_FREE_BYTES >> 20} MiB are free in {store.root}")
        _interrupt_once()
    return store


def _source(text: str) -> str:
    """A local path made absolute, because drivers leave the current folder."""
    if "://" in text or text.split(":")[0] == "environment-docs":
        return text
    return os.path.abspath(Path(text).expanduser())  # noqa: PTH100 - a glob must keep its pattern


def _model(text: str) -> str:
    return str(Path(text).expanduser().absolute()) if Path(text).expanduser().is_dir() else text


def _print_json(result: Any) -> None:
    print(json.dumps(result))


def _overrides(options: argparse.Namespace) -> dict[str, str]:
    overrides: dict[str, str] = {}
    for key, value in options.overrides:
        if key in overrides:
            raise ValueError(f"--set {key} is given twice")
        overrides[key] = value
    return overrides


def _refresh(options: argparse.Namespace) -> int:
    source = _source(options.source)
    _enter(options)
    from flows.console import funnel_lines
    from flows.parameters import RefreshParameters
    from flows.refresh_corpus import check_refresh, refresh_corpus
    from tasks.store import checked_name

    checked_name(options.name)
    parameters = RefreshParameters(
        name=options.name,
        source=source,
        recipe=options.recipe,
        overrides=_overrides(options),
        workers=options.workers,
    )
    check_refresh(parameters)  # before Prefect starts
    result = refresh_corpus(parameters)
    if not result["changed"]:
        print(f"no change: {result['corpus']} was made from these inputs with this recipe; nothing was recomputed")
    print("\n".join(funnel_lines(result)))
    print(f"{result['corpus']}  digest {result['digest']}\n{result['path']}")
    if options.json:
        _print_json(result)
    return 0


def _pretrain(options: argparse.Namespace) -> int:
    _enter(options)
    from flows.parameters import PretrainParameters
    from flows.pretrain import check_pretrain, pretrain

    parameters = PretrainParameters(
        corpus=options.corpus,
        recipe=options.recipe,
        overrides=_overrides(options),
        model=options.model,
        workers=options.workers,
    )
    check_pretrain(parameters)
    result = pretrain(parameters)
    _print_training(result)
    if options.json:
        _print_json(result)
    return 0


def _print_training(result: dict[str, Any]) -> None:
    print(f"model            {result['model']} ({result['num_parameters']:,} parameters)")
    print(f"trained on       {result['tokens']:,} tokens in {result['steps']:,} steps, loss {result['loss']:.4f}")
    print(f"held-out text    {result['bits_per_byte']:.4f} bits per byte")
    print(f"loss curve       {result['loss_curve']}")
    print(f"checkpoint       {result['checkpoint']}")


def _evaluate(options: argparse.Namespace) -> int:
    model = _model(options.model)
    _enter(options)
    from flows.evaluate import check_evaluate, evaluate
    from flows.parameters import EvaluateParameters

    parameters = EvaluateParameters(model=model, max_documents=options.max_documents)
    check_evaluate(parameters)
    result = evaluate(parameters)
    for name, value in result["scores"].items():
        print(f"{name:<20}{value:>14,.4f}" if isinstance(value, float) else f"{name:<20}{value:>14,}")
    if options.json:
        _print_json(result)
    return 0


def _pipeline(options: argparse.Namespace) -> int:
    source = _source(options.source)
    embedded = source.split(":")[0] == "environment-docs"
    if options.pages:
        if not embedded:
            raise ValueError("--pages goes with the default source only")
        source = f"environment-docs:{options.pages}"
    store = _enter(options)
    from flows.console import funnel_lines
    from flows.parameters import PipelineParameters
    from flows.pipeline import pipeline, stage_parameters
    from tasks.sources import source_name

    parameters = PipelineParameters(
        name=options.name or ("docs" if embedded else source_name(source)),
        source=source,
        curation=options.curation or ("documentation" if embedded else "fineweb"),
        pretraining=options.pretraining,
        overrides=_overrides(options),
        workers=options.workers,
    )
    stage_parameters(parameters)
    result = pipeline(parameters)
    refreshed, trained, evaluated = result["refresh"], result["pretrain"], result["evaluate"]
    print("\n".join(funnel_lines({**refreshed, "tokens": trained["tokens_in_corpus"]})))
    print()
    _print_training(trained)
    print("\nsamples")
    for sample in evaluated["samples"]:
        print(f"  {sample['prompt']}|{' '.join(sample['continuation'].split())}")
    print(f"\ncorpus           {refreshed['corpus']} in {refreshed['path']}")
    command = Path(sys.executable).with_name("tokenmill")
    print(f"look at it       {command} up --store {store.root}    (Prefect and MLflow on this history)")
    if options.json:
        _print_json(result)
    return 0


def _generate(options: argparse.Namespace) -> int:
    model = _model(options.model)
    store = _enter(options)
    from infra.registry import find_model
    from tasks.generation import TextGenerator

    version = find_model(store, model)
    generator = TextGenerator.load(version.folder, version.tokenizer_file)
    sys.stdout.write(options.prompt)
    for piece in generator.stream(
        options.prompt,
        max_new_tokens=options.max_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        seed=options.seed,
    ):
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()
    return 0


def _manifests(store: Store) -> list[dict[str, Any]]:
    from tasks.manifest import read_manifest

    found = [
        read_manifest(store.corpora / name / str(version)) for name in store.names() for version in store.versions(name)
    ]
    return [manifest for manifest in found if manifest is not None]


def _corpora(options: argparse.Namespace) -> int:
    store = _enter(options)
    manifests = _manifests(store)
    for manifest in manifests:
        reference = f"{manifest['name']}@{manifest['version']}"
        print(
            f"{reference:<24}{manifest['created']:<22}{manifest['documents_kept']:>10,} of"
            f" {manifest['records_in']:>10,} records  {manifest['digest'][:16]}"
        )
    if not manifests:
        print(f"no corpus in {store.root} yet: make one with `tokenmill refresh` or `tokenmill pipeline`")
    if options.json:
        keys = ("name", "version", "created", "records_in", "documents_kept", "digest")
        _print_json([{key: manifest[key] for key in keys} for manifest in manifests])
    return 0


def _show(options: argparse.Namespace) -> int:
    store = _enter(options)
    from flows.console import funnel_lines
    from tasks.manifest import read_manifest

    path = store.corpus(options.corpus)
    manifest = read_manifest(path)
    assert manifest is not None
    print(f"{manifest['name']}@{manifest['version']}  made {manifest['created']} from {manifest['source']}")
    print("\n".join(funnel_lines(manifest)))
    print(f"edits{manifest['edits']:>45,}")
    print(f"recipe  {manifest['recipe']['name']}\ndigest  {manifest['digest']}\npath    {path}")
    if options.json:
        _print_json({**manifest, "path": str(path)})
    return 0


def _up(options: argparse.Namespace) -> int:
    store = _enter(options)
    from infra.local_stack import serve_until_interrupted

    return serve_until_interrupted(store, prefect_port=options.prefect_port, mlflow_port=options.mlflow_port)


def _doctor(options: argparse.Namespace) -> int:
    store = _enter(options)
    from infra.doctor import examine

    findings = examine(store)
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what:<18}{finding.detail}")
    if options.json:
        _print_json([{"what": f.what, "ok": f.ok, "detail": f.detail} for f in findings])
    return 0 if all(finding.ok for finding in findings) else 2


_COMMANDS = {
    "refresh": _refresh,
    "pretrain": _pretrain,
    "evaluate": _evaluate,
    "pipeline": _pipeline,
    "generate": _generate,
    "corpora": _corpora,
    "show": _show,
    "up": _up,
    "doctor": _doctor,
}

if __name__ == "__main__":
    main()
