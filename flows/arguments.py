"""The words of the `tokenmill` command: its commands and options, and what they mean before anything is imported."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from flows.ablate_command import RENAMED_IN as _ABLATE_RENAMED
from flows.ablate_command import add_options as add_ablate_options
from flows.classifier_command import RENAMED_IN as _CLASSIFIER_RENAMED
from flows.classifier_command import add_options
from flows.evaluate_command import RENAMED_IN as _EVALUATE_RENAMED
from flows.evaluate_command import add_options as add_evaluate_options
from flows.export_command import add_options as add_export_options
from flows.generate_command import add_options as add_generate_options
from flows.option_types import local_path as _path
from flows.option_types import model_reference as _model
from flows.option_types import natural as _natural
from flows.option_types import positive as _positive
from flows.serve_command import add_options as add_serve_options
from tasks.source_names import COMMON_CRAWL, EMBEDDED, common_crawl_source, is_common_crawl, is_local_path

PROFILES = "smoke, small, full"
CURATIONS = "fineweb, fineweb2, dclm, gopher, documentation, smoke"
_WORKERS = "shards at a time (default: all CPUs of Ray)"
_REPLACE = "start over from what is there now alone"
_WIPE_OUT = "publish although a stage has removed nearly all of a source, domain or language; the version says so"
_RETRAIN = "make the next generation of the corpus' tokenizer (default: the tokenizer that earlier trainings used)"
_MIX = (
    "train on this corpus as well: weight relative to the main corpus' 1 (default: 1), passes over it and tokens of it"
    " at most (default: no limit); may be repeated"
)
_MIX_FORM = "N[@V][,weight=W][,max_epochs=E][,max_tokens=N]"
_MIN_WORKERS = (
    "train with so many where there are no more, and with up to --workers when there are (default: --workers)"
)
_MIN_NEW_TOKENS = "train only when the corpus has so many more tokens than when the model was last trained (default: 0)"


def parser() -> argparse.ArgumentParser:
    """The command line. What a value may be is decided by the flows' parameters, in one place."""
    parser = argparse.ArgumentParser(
        prog="tokenmill", description="From raw web pages to a trained language model, with every record accounted for."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    store = argparse.ArgumentParser(add_help=False)
    store.add_argument("--store", metavar="DIR", help="the store's folder (default: $TOKENMILL_STORE, else ./store)")
    store.add_argument("--debug", action="store_true", help="where an error is said in one line, its traceback as well")
    run = argparse.ArgumentParser(add_help=False, parents=[store])
    run.add_argument("--json", action="store_true", help="print one JSON object as the last line of standard output")
    flow = argparse.ArgumentParser(add_help=False, parents=[run])
    flow.add_argument("--dry-run", action="store_true", help="resolve, check and estimate everything; do nothing")
    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument(
        "--set",
        dest="settings",
        metavar="KEY=VALUE",
        type=_setting,
        action="append",
        default=[],
        help="change one setting of the recipe, such as gopher_quality.min_words=30; may be repeated",
    )

    def add(name: str, help_: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help_, description=help_, parents=parents)

    _preview(add("preview", "What a recipe would do to a source, on a sample of its pages.", run, settings))
    _thresholds(add("thresholds", "Limits for other languages, measured on a text and written to a file.", run))
    _refresh(add("refresh", "Raw pages to a published corpus version.", flow, settings))
    _pretrain(add("pretrain", "A corpus version to a registered model version.", flow, settings))
    _plan(add("plan", "What a training run would take, before it is paid for; changes nothing.", run, settings))
    add_evaluate_options(
        add("evaluate", "A model to its scores, each with its noise, and through a gate.", flow), _model
    )
    ablate = add("ablate", "Which of two recipes makes the better models of the same pages, if any does.", flow)
    add_ablate_options(ablate, CURATIONS, PROFILES)
    _pipeline(add("pipeline", "The whole job: raw pages to a trained, evaluated model.", flow, settings))
    add_options(
        add("train-classifier", "Labelled texts to a registered classifier, and through a gate to champion.", flow)
    )

    add_generate_options(add("generate", "Continue prompts with a model; without one, in a dialogue.", run))
    add_serve_options(add("serve", "A model behind HTTP, for clients of OpenAI's completions.", store))
    add_export_options(add("export", "A model as a folder for other programs, proven to be the same.", run))

    add("corpora", "Published corpus versions.", run)
    show = add("show", "One corpus version: funnel, recipe, where it lies.", run)
    show.add_argument("corpus", metavar="N[@V]")
    quarantine = add("quarantine", "The bytes of records that could not be read, as they were found.", run)
    quarantine.add_argument("corpus", metavar="N[@V]")
    quarantine.add_argument(
        "sha256", nargs="?", default="", metavar="SHA256", help="whose bytes, or its first digits (default: list all)"
    )
    quarantine.add_argument(
        "--output", type=_path, metavar="FILE", help="where the bytes go (default: standard output)"
    )
    _diff(add("diff", "What changed between two corpus versions, as a table and an HTML report.", run))
    _takedown(add("takedown", "Find pages in all that was made of them; with --apply take them out for good.", run))
    up = add("up", "Serve Prefect and MLflow on this store's history, with the flows to trigger, until Ctrl-C.", store)
    up.add_argument("--prefect-port", type=_positive, default=4200, metavar="P")
    up.add_argument("--mlflow-port", type=_positive, default=5000, metavar="P")
    _doctor(add("doctor", "Check versions, models, storage, Ray, Prefect and MLflow; bring models.", run, settings))
    _garbage(add("gc", "Remove what no kept corpus version and no registered model refers to.", flow))
    reconcile = add("reconcile", "Close what killed runs left open, in both histories and in the store.", flow)
    reconcile.add_argument(
        "--min-age-minutes", type=_natural, default=10, metavar="N", help="leave what is younger (default: 10)"
    )
    return parser


_RENAMED = {"more_corpora": "mix", "more_sources": "source"}
_RENAMED_IN = {
    **_CLASSIFIER_RENAMED,
    **_EVALUATE_RENAMED,
    **_ABLATE_RENAMED,
    ("pretrain", "Training"): {"profile": "recipe"},
    ("plan", "Training"): {"profile": "recipe"},
    ("pipeline", "Input"): {"profile": "input_profile"},
    ("pipeline", "Curation"): {"recipe": "curation"},
}


def option_of(options: argparse.Namespace, model: str, field: str) -> str:
    """The option that a field of the flow's parameters is set by, `--mix`; the field where it is set by none."""
    renamed = _RENAMED | _RENAMED_IN.get((options.command, model), {})
    name = renamed.get(field, field)
    if name == "settings":
        return "--set"
    return f"--{name.replace('_', '-')}" if hasattr(options, name) else field


def _preview(preview: argparse.ArgumentParser) -> None:
    preview.epilog = (
        "examples: `tokenmill preview --source crawl/ --recipe fineweb`; then the same with `--set"
        " gopher_quality.min_words=30`, which says what that would change, without scoring a page again"
    )
    _sources(preview, "may be repeated")
    preview.add_argument("--recipe", default="fineweb", metavar="R", help=f"{CURATIONS} (default: fineweb)")
    preview.add_argument(
        "--pages", type=_positive, default=1000, metavar="N", help="records in the sample (default: 1000)"
    )
    preview.add_argument("--seed", type=_natural, default=0, metavar="S", help="another seed draws another sample")
    preview.add_argument("--workers", type=_positive, default=0, metavar="N", help=_WORKERS)


def _thresholds(thresholds: argparse.ArgumentParser) -> None:
    thresholds.epilog = (
        "example: `tokenmill thresholds --source wikipedia/ --languages de,fr --output thresholds.json`; the entries of"
        " the file belong into tasks/recipes/languages.json, where the recipe fineweb2 takes them from"
    )
    _sources(thresholds, "may be repeated. It should say much the same in all languages, English among them")
    thresholds.add_argument(
        "--languages", required=True, type=_languages, metavar="L,L", help="ISO 639-1 codes, such as de,fr"
    )
    thresholds.add_argument("--output", required=True, type=_path, metavar="FILE", help="a JSON file")
    thresholds.add_argument(
        "--pages", type=_positive, default=5000, metavar="N", help="records that are measured (default: 5000)"
    )


def _refresh(refresh: argparse.ArgumentParser) -> None:
    _sources(refresh, "may be repeated. What an earlier version has read is not read again")
    refresh.add_argument("--name", required=True, metavar="N", help="corpus name; its next version is published")
    refresh.add_argument("--recipe", default="fineweb", metavar="R", help=f"{CURATIONS} (default: fineweb)")
    refresh.add_argument("--allow-wipe-out", action="store_true", help=_WIPE_OUT)
    refresh.add_argument(
        "--profile", default="full", metavar="P", help="of the new files: smoke the first, small 16, full (default) all"
    )
    refresh.add_argument("--replace", action="store_true", help=_REPLACE)
    refresh.add_argument("--workers", type=_positive, default=0, metavar="N", help=_WORKERS)


def _sources(command: argparse.ArgumentParser, more: str) -> None:
    command.add_argument(
        "--source",
        required=True,
        action="append",
        type=_source,
        metavar="S",
        help="path, glob, folder, s3:// or http(s):// address of WARC, WET, HTML, JSONL or Parquet files; or a .txt"
        f" list of such, one a line; or {EMBEDDED}[:PAGES|:all], the documentation of the installed packages; or"
        f" {COMMON_CRAWL}:CC-MAIN-YYYY-WW[:wet][:N] or {COMMON_CRAWL}:latest[:wet][:N], N files (default 1) of a crawl"
        f" of Common Crawl, a fixed random choice: a larger N keeps the earlier ones; {more}",
    )


def _pretrain(pretrain: argparse.ArgumentParser) -> None:
    pretrain.epilog = (
        "example: `tokenmill pretrain --corpus docs --mix news@2,weight=0.5,max_epochs=4` takes one sequence of news to"
        " two of docs, until it has passed over news four times"
    )
    _corpora(pretrain)
    pretrain.add_argument("--recipe", default="smoke", metavar="R", help=f"{PROFILES} (default: smoke)")
    pretrain.add_argument("--model", default="", metavar="NAME", help="name in the registry (default: corpus-recipe)")
    pretrain.add_argument("--workers", type=_positive, default=1, metavar="N", help="training processes (default: 1)")
    pretrain.add_argument("--min-workers", type=_natural, default=0, metavar="N", help=_MIN_WORKERS)
    pretrain.add_argument(
        "--checkpoints",
        type=_place,
        default="",
        metavar="PLACE",
        help="folder or s3://bucket/prefix to keep the run's checkpoints in (default: with the run, in the store)",
    )
    pretrain.add_argument("--retrain-tokenizer", action="store_true", help=_RETRAIN)
    pretrain.add_argument("--resume-from", default="", metavar="RUN_ID", help="the MLflow run to go on with")
    pretrain.add_argument("--min-new-tokens", type=_natural, default=0, metavar="N", help=_MIN_NEW_TOKENS)


def _plan(plan: argparse.ArgumentParser) -> None:
    plan.epilog = (
        "example: `tokenmill plan --corpus web --recipe full --workers 8 --price 2.5`; memory and time are those of"
        " this machine's kind of device: ask where it is like the workers'"
    )
    _corpora(plan)
    plan.add_argument("--recipe", default="smoke", metavar="R", help=f"{PROFILES} (default: smoke)")
    plan.add_argument("--workers", type=_positive, default=1, metavar="N", help="training processes (default: 1)")
    plan.add_argument("--min-workers", type=_natural, default=0, metavar="N", help=_MIN_WORKERS)
    plan.add_argument("--price", type=_price, metavar="P", help="of a device for an hour, in any currency")
    plan.add_argument(
        "--no-probe", action="store_true", help="take no probe steps, which last about a minute: time by rule of thumb"
    )


def _corpora(command: argparse.ArgumentParser) -> None:
    command.add_argument("--corpus", required=True, metavar="N[@V]", help="corpus name, or name@version")
    command.add_argument("--mix", type=_share, action="append", default=[], metavar=_MIX_FORM, help=_MIX)


def _pipeline(pipeline: argparse.ArgumentParser) -> None:
    pipeline.add_argument(
        "--source", action="append", type=_source, metavar="S", help=f"as for refresh (default: {EMBEDDED})"
    )
    pipeline.add_argument(
        "--pages", metavar="N|all", help="pages of the default source (default 2500, the most but for all)"
    )
    pipeline.add_argument("--name", metavar="N", help="corpus name (default: from the source)")
    pipeline.add_argument(
        "--curation", metavar="R", help=f"{CURATIONS} (default: fineweb; documentation for the default source)"
    )
    pipeline.add_argument("--allow-wipe-out", action="store_true", help=_WIPE_OUT)
    pipeline.add_argument("--replace", action="store_true", help=_REPLACE)
    pipeline.add_argument("--min-new-tokens", type=_natural, default=0, metavar="N", help=_MIN_NEW_TOKENS)
    pipeline.add_argument("--input-profile", default="full", metavar="P", help="as refresh --profile (default: full)")
    pipeline.add_argument("--profile", default="smoke", metavar="P", help=f"training: {PROFILES} (default: smoke)")
    pipeline.add_argument("--retrain-tokenizer", action="store_true", help=_RETRAIN)
    pipeline.add_argument("--workers", type=_positive, default=0, metavar="N", help=_WORKERS)


def _doctor(doctor: argparse.ArgumentParser) -> None:
    doctor.epilog = (
        "example: `tokenmill doctor --recipe fineweb --set language.model=lid.176.ftz --set language.min_score=.65"
        " --fetch` downloads that model; nothing else ever downloads one"
    )
    doctor.add_argument(
        "--recipe", action="append", default=[], metavar="R", help=f"whose models: {CURATIONS} (default: all)"
    )
    doctor.add_argument(
        "--model", action="append", default=[], metavar="M", help="a model as a recipe names it; may be repeated"
    )
    doctor.add_argument("--fetch", action="store_true", help="bring the models that are missing into the store")


def _garbage(garbage: argparse.ArgumentParser) -> None:
    garbage.add_argument(
        "--keep-versions", type=_positive, default=3, metavar="N", help="newest versions of each corpus (default: 3)"
    )
    garbage.add_argument(
        "--min-age-days", type=_age, default=7.0, metavar="D", help="leave what is younger (default: 7)"
    )


def _diff(diff: argparse.ArgumentParser) -> None:
    diff.epilog = (
        "examples: `tokenmill diff docs@2 docs@5`; `tokenmill diff docs`, its last two versions; `tokenmill diff web-a"
        " web-b --html ab.html`, the latest of two recipes"
    )
    diff.add_argument("first", metavar="N[@V]", help="the earlier version; alone: compared with the one before it")
    diff.add_argument("second", nargs="?", default="", metavar="N[@V]", help="the later version")
    diff.add_argument(
        "--html", type=_path, metavar="FILE", help="where the report goes (default: reports/ in the store)"
    )
    diff.add_argument("--samples", type=_natural, default=5, metavar="K", help="documents of each kind (default: 5)")


def _takedown(takedown: argparse.ArgumentParser) -> None:
    takedown.epilog = (
        "examples: `tokenmill takedown --domain example.org` says where its pages are; `tokenmill takedown --url"
        " https://example.org/a --apply --reason 'asked by its author'` publishes versions without that page and all"
        " its copies"
    )
    takedown.add_argument("--url", action="append", default=[], metavar="U", help="a page; may be repeated")
    takedown.add_argument(
        "--domain", action="append", default=[], metavar="D", help="all of a host and those under it; may be repeated"
    )
    takedown.add_argument(
        "--document", action="append", default=[], metavar="ID", help="a record of the ledger; may be repeated"
    )
    takedown.add_argument("--name", default="", metavar="N", help="this corpus alone (default: all)")
    takedown.add_argument(
        "--apply", action="store_true", help="publish versions without them, and keep them from coming back"
    )
    takedown.add_argument(
        "--purge", action="store_true", help="with --apply: remove them from the older versions' files as well"
    )
    takedown.add_argument(
        "--only",
        action="store_true",
        help="these documents alone, not their near-duplicates; the same text may come again under another URL or date",
    )
    takedown.add_argument("--reason", default="", metavar="TEXT", help="why, for the record")


def _setting(text: str) -> str:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form key=value")
    if key.removeprefix("training.") == "decay_from":
        return f"{key}={_place(value)}"
    return text


def _share(text: str) -> dict[str, str]:
    """A corpus of the mixture: its fields by name. What a value may be is decided by the flow's parameters."""
    corpus, *settings = text.split(",")
    share = {"corpus": corpus}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in ("weight", "max_epochs", "max_tokens") or not value or key in share:
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form {_MIX_FORM}")
        share[key] = value
    return share


def _age(text: str) -> float:
    return _at_least_0(text, "number of days")


def _price(text: str) -> float:
    return _at_least_0(text, "price")


def _at_least_0(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a {what} of at least 0")
    return number


def _source(text: str) -> str:
    """A local path made absolute, because drivers leave the current folder."""
    if is_common_crawl(text):
        try:
            common_crawl_source(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    if not is_local_path(text):
        return text
    return os.path.abspath(Path(text).expanduser())  # noqa: PTH100 - a glob must keep its pattern


def _languages(text: str) -> list[str]:
    languages = [language.strip() for language in text.split(",")]
    if not all(language.isascii() and language.isalpha() and language.islower() for language in languages):
        raise argparse.ArgumentTypeError(f"{text!r} are no language codes separated by commas, such as de,fr")
    return languages


def _place(text: str) -> str:
    """A local folder made absolute, because drivers leave the current folder; a URL as it is."""
    return text if "://" in text or not text else str(_path(text))


def print_json(options: argparse.Namespace, result: object) -> int:
    """What `--json` asks for: the result as the last line of standard output. The command's exit code, 0."""
    if options.json:
        print(json.dumps(result))
    return 0
