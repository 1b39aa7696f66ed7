"""What an operator can set for each flow: the fields of Prefect's forms and the options of the command line.

A form shows one group after the other. What one field can express is refused when the form is submitted; what takes a
second field, or a look at the store, is refused by the flow's own check before any work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tasks.inputs import Profile
from tasks.source_names import COMMON_CRAWL, EMBEDDED

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
VERSION_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(@[0-9]+)?$"
"""name, or name@version."""
_OPTIONAL_NAME = r"^$|" + _NAME
_OPTIONAL_RUN_ID = r"^$|^[0-9a-f]{32}$"
_OPTIONAL_PLACE = r"^$|^/|^[a-z][a-z0-9+.-]*://."

_SOURCE = (
    "A path, glob, folder, s3:// or http(s):// address of WARC, WET, HTML, JSONL or Parquet files, or a .txt list of"
    f" such, one a line. {EMBEDDED}, or {EMBEDDED}:500 or :all, is the documentation of the installed packages."
    f" {COMMON_CRAWL}:CC-MAIN-YYYY-WW[:wet][:N], or {COMMON_CRAWL}:latest[:wet][:N], is N files (default 1) of a crawl"
    " of Common Crawl, a fixed random choice: a larger N keeps the earlier ones."
)

Setting = Annotated[str, Field(pattern=r"^[^=\s]+=")]
Text = Annotated[str, Field(min_length=1)]


def _run_id(value: object) -> object:
    if isinstance(value, str) and not re.match(_OPTIONAL_RUN_ID, value):
        raise ValueError(f"{value!r} is no id of an MLflow run: take the 32 characters of it from the run's page")
    return value


class Form(BaseModel):
    """What an operator fills in: closed to misspelt names, and not to be changed by a flow."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _as_overrides(settings: Sequence[str]) -> Mapping[str, str]:
    overrides: dict[str, str] = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key in overrides:
            raise ValueError(f"the setting {key} is given twice; keep one of them")
        overrides[key] = value
    return overrides


class Input(Form):
    """What is read."""

    source: str = Field(
        EMBEDDED,
        title="Source",
        min_length=1,
        description=f"{_SOURCE} A folder or glob is watched: each run reads the files that are new in it.",
    )
    more_sources: list[Text] = Field(default_factory=list, title="More sources", description="Read as well.")
    profile: Profile = Field(
        "full",
        title="Profile",
        description="How many of the new files one run reads: smoke the first, small the first 16, full all of them."
        " The others stay new for the next run.",
    )
    replace: bool = Field(
        False,
        title="Start over",
        description="Make the next version of what is there now alone. Off: of everything that earlier versions read,"
        " and the new files.",
    )


class Rules(Form):
    """A recipe, and what is changed of it."""

    recipe: Literal["fineweb", "fineweb2", "dclm", "gopher", "documentation", "smoke"] = Field(
        "fineweb", title="Recipe", description="Rules and thresholds."
    )
    settings: list[Setting] = Field(
        default_factory=list,
        title="Changed settings",
        description="Single values of the recipe, such as gopher_quality.min_words=30.",
    )

    @property
    def overrides(self) -> Mapping[str, str]:
        """The changed settings by key. ValueError where one is given twice."""
        return _as_overrides(self.settings)


class Curation(Rules):
    """Which pages are kept."""

    allow_wipe_out: bool = Field(
        False,
        title="Allow wipe-out",
        description="Publish although a stage has removed nearly all of a source, domain or language. The version says"
        " so. Off: the run stops before it publishes.",
    )


class Execution(Form):
    """How it is run."""

    workers: int = Field(
        0, ge=0, le=10_000, title="Workers", description="Shards at a time; 0: as many as Ray has CPUs."
    )
    dry_run: bool = Field(
        False, title="Dry run", description="Resolve, check and estimate everything; do and write nothing."
    )


class Training(Form):
    """Network and training."""

    profile: Profile = Field(
        "smoke",
        title="Profile",
        description="smoke: .8M parameters, about a minute on two CPU cores; small: 10M, the least that writes words;"
        " full: 124M, for a GPU.",
    )
    settings: list[Setting] = Field(
        default_factory=list,
        title="Changed settings",
        description="Single values of the profile, such as total_tokens=500000.",
    )
    model: str = Field(
        "",
        title="Model name",
        pattern=_OPTIONAL_NAME,
        description="Name in the registry; empty: corpus name and profile, such as docs-smoke.",
    )
    retrain_tokenizer: bool = Field(
        False,
        title="Retrain tokenizer",
        description="Make the next generation of the corpus' tokenizer from this version. Off: the tokenizer of the"
        " first version that was trained on, or of the latest retraining.",
    )
    checkpoints: str = Field(
        "",
        title="Checkpoints",
        pattern=_OPTIONAL_PLACE,
        description="Where they are kept: an absolute folder or s3://bucket/prefix, in which the run gets a folder of"
        " its own. Nothing but training removes any there. Empty: with the run, in the store.",
    )

    @property
    def overrides(self) -> Mapping[str, str]:
        """The changed settings by key. ValueError where one is given twice."""
        return _as_overrides(self.settings)


class Consent(Form):
    """When training starts."""

    min_new_tokens: int = Field(
        0,
        ge=0,
        title="New tokens at least",
        description="Train only when the corpus has so many more tokens (estimated: 4 bytes each) than when a model of"
        " this name was last trained; 0: always.",
    )
    approval: bool = Field(
        False, title="Ask before training", description="Pause with a form that shows what it will take."
    )


class Scoring(Form):
    """What the model is measured on."""

    profile: Profile = Field(
        "small", title="Profile", description="Held-out documents: smoke 50, small 200, full all of them."
    )
    prompts: list[Text] = Field(
        default_factory=lambda: ["The function returns", "This module provides", "In this case,"],
        title="Prompts",
        description="Continued by the model, as samples.",
    )
    tasks: list[Text] = Field(
        default_factory=lambda: ["basics"],
        title="Tasks",
        description="Packs of evaluation tasks: basics, or the whole path of one of your own; academic=/data/eval has"
        " its files in a folder of yours; PACK:task,task asks some of its tasks; harness:hellaswag,arc_easy fetches"
        " stock tasks of lm-evaluation-harness. Empty: held-out text alone.",
    )
    limit: int = Field(
        0,
        ge=0,
        title="Examples at most",
        description="Of each task, chosen by hash: a larger limit keeps the examples of a smaller one. 0: all.",
    )
    contamination: bool = Field(
        False,
        title="Look for contamination",
        description="Search the corpora that the model was trained on for 13 words in a row of each example.",
    )
    workers: int = Field(
        1, ge=1, le=1024, title="Workers", description="Processes that ask tasks and search; 1: the flow's own."
    )


class Promotion(Form):
    """Whether the model becomes the champion, which is what a model's name alone stands for."""

    champion: Literal["never", "if_better", "ask"] = Field(
        "never",
        title="Move champion",
        description="if_better: when it beats the champion beyond noise on the same examples, and is surely worse on no"
        " guarded measure; ask: where it does, show the comparison and pause for an approval.",
    )
    metric: Text = Field(
        "bits_per_byte",
        title="Better on",
        description="The measure on which it has to be better: bits_per_byte (of held-out text), PACK (its centred"
        " score), PACK/TASK (its main metric) or PACK/TASK/METRIC.",
    )
    guarded: list[Text] = Field(
        default_factory=list,
        title="Guarded measures",
        description="On which it must not be surely worse: MEASURE, or MEASURE=0.01 to allow so much; also slices, such"
        " as held_out/language/de.",
    )


class RefreshParameters(Form):
    """Raw pages to a published corpus version."""

    name: str = Field("docs", title="Corpus name", pattern=_NAME, description="The next version is published under it.")
    input: Input = Field(default_factory=Input, title="Input")
    curation: Curation = Field(default_factory=Curation, title="Curation")
    execution: Execution = Field(default_factory=Execution, title="Execution")


class CorpusShare(Form):
    """A corpus of a mixture, and how much is drawn of it."""

    corpus: str = Field(title="Corpus", pattern=VERSION_NAME, description="name (its latest version) or name@version.")
    weight: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        title="Weight",
        description="Its share of the training text, relative to the main corpus' 1: 0.5 is one part to two.",
    )
    max_epochs: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        title="Passes at most",
        description="Over this corpus; then the others take its share. 0: no limit.",
    )
    max_tokens: int = Field(
        0,
        ge=0,
        title="Tokens at most",
        description="Drawn from this corpus; then the others take its share. 0: no limit.",
    )


class PretrainParameters(Form):
    """A corpus version to a registered model version."""

    corpus: str = Field(
        "docs",
        title="Corpus",
        pattern=VERSION_NAME,
        description="name (its latest version) or name@version. Its held-out text measures the model; its weight is 1.",
    )
    more_corpora: list[CorpusShare] = Field(
        default_factory=list,
        title="More corpora",
        description="Trained on as well, by weight, with the main corpus' tokenizer.",
    )
    training: Training = Field(default_factory=Training, title="Training")
    resume_from: Annotated[str, BeforeValidator(_run_id)] = Field(
        "",
        title="Resume from",
        pattern=_OPTIONAL_RUN_ID,
        description="Id of the MLflow run to go on with, whatever has changed in the code since. Empty: the run of the"
        " same corpus, settings and code, where there is one.",
    )
    workers: int = Field(1, ge=1, le=1024, title="Training workers", description="Processes, one GPU each if any.")
    min_workers: int = Field(
        0,
        ge=0,
        le=1024,
        title="Workers at least",
        description="Start with so many where the cluster has no more, go on with fewer where some are lost and with"
        " more when there is room, up to the training workers. 0: always as many as those.",
    )
    consent: Consent = Field(default_factory=Consent, title="Consent")
    dry_run: bool = Field(
        False, title="Dry run", description="Resolve, check and estimate everything; do and write nothing."
    )


class EvaluateParameters(Form):
    """A model version to its scores."""

    model: str = Field(
        "docs-smoke",
        title="Model",
        min_length=1,
        description="name (its champion), name@version, name@alias, models:/..., or a checkpoint folder.",
    )
    compare_with: str = Field(
        "", title="Compare with", description="Another model, asked the same; named like the model. Empty: none."
    )
    scoring: Scoring = Field(default_factory=Scoring, title="Scoring")
    promotion: Promotion = Field(default_factory=Promotion, title="Promotion")
    dry_run: bool = Field(
        False, title="Dry run", description="Resolve, check and estimate everything; do and write nothing."
    )


class PipelineParameters(Form):
    """Raw pages to a trained, evaluated model."""

    name: str = Field("docs", title="Corpus name", pattern=_NAME, description="The next version is published under it.")
    input: Input = Field(default_factory=Input, title="Input")
    curation: Curation = Field(default_factory=lambda: Curation(recipe="documentation"), title="Curation")
    training: Training = Field(default_factory=Training, title="Training")
    consent: Consent = Field(default_factory=Consent, title="Consent")
    scoring: Scoring = Field(default_factory=Scoring, title="Scoring")
    promotion: Promotion = Field(default_factory=Promotion, title="Promotion")
    execution: Execution = Field(default_factory=Execution, title="Execution")


class PreviewParameters(Form):
    """What a recipe would do to a source, shown on a sample of its pages. Nothing is published."""

    source: str = Field(EMBEDDED, title="Source", min_length=1, description=_SOURCE)
    more_sources: list[Text] = Field(default_factory=list, title="More sources", description="Sampled as well.")
    rules: Rules = Field(default_factory=Rules, title="Rules")
    pages: int = Field(
        1000,
        ge=1,
        le=100_000,
        title="Pages",
        description="Records in the sample, spread evenly over files and the places in them.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, title="Seed", description="Another seed draws another sample.")
    workers: int = Field(
        0, ge=0, le=10_000, title="Workers", description="Shards at a time; 0: as many as Ray has CPUs."
    )


class DiffParameters(Form):
    """Two corpus versions, of one name or of two."""

    before: str = Field(
        "",
        title="Earlier version",
        pattern=r"^$|" + VERSION_NAME,
        description="name@version, or name: its latest. Empty: the version before the later one.",
    )
    after: str = Field(
        "docs", title="Later version", pattern=VERSION_NAME, description="name (its latest version) or name@version."
    )
    samples: int = Field(
        5, ge=0, le=100, title="Samples", description="Documents shown of each kind of change, with their texts."
    )


class ReconcileParameters(Form):
    """What killed runs left behind."""

    min_age_minutes: int = Field(
        10, ge=0, title="Least age", description="Nothing younger than so many minutes is touched."
    )
    dry_run: bool = Field(False, title="Dry run", description="Say what would be done; do nothing.")
