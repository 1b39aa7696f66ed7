"""What an operator can set for each flow: the fields of Prefect's forms and the options of the command line."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks.sources import EMBEDDED

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class _Parameters(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RefreshParameters(_Parameters):
    """Raw pages to a published corpus version."""

    name: str = Field("docs", title="Corpus name", pattern=_NAME, description="The next version is published under it.")
    source: str = Field(
        EMBEDDED,
        title="Source",
        min_length=1,
        description="A path, glob, folder, s3:// or http(s):// address of WARC, WET, HTML, JSONL or Parquet files;"
        f" {EMBEDDED}, or {EMBEDDED}:500 or :all, is the documentation of the installed packages.",
    )
    recipe: Literal["fineweb", "documentation"] = Field("fineweb", title="Recipe", description="Rules and thresholds.")
    overrides: dict[str, str] = Field(
        default_factory=dict,
        title="Changed settings",
        description='Single values of the recipe, such as {"gopher_quality.min_words": "30"}.',
    )
    workers: int | None = Field(
        None, ge=1, le=10_000, title="Workers", description="Shards at a time; empty: as many as Ray has CPUs."
    )


class PretrainParameters(_Parameters):
    """A corpus version to a registered model version."""

    corpus: str = Field("docs", title="Corpus", min_length=1, description="name (its latest version) or name@version.")
    recipe: Literal["smoke", "small", "base"] = Field("smoke", title="Recipe", description="Network and training.")
    overrides: dict[str, str] = Field(
        default_factory=dict,
        title="Changed settings",
        description='Single values of the recipe, such as {"total_tokens": "500000"}.',
    )
    model: str = Field(
        "",
        title="Model name",
        pattern=r"^$|" + _NAME,
        description="Name in the registry; empty: corpus name and recipe, such as docs-smoke.",
    )
    workers: int = Field(1, ge=1, le=1024, title="Training workers", description="Processes, one GPU each if any.")


class EvaluateParameters(_Parameters):
    """A model version to its scores."""

    model: str = Field(
        "docs-smoke",
        title="Model",
        min_length=1,
        description="name (its champion), name@version, name@alias, models:/..., or a checkpoint folder.",
    )
    max_documents: int = Field(200, ge=1, le=1_000_000, title="Held-out documents scored at most")
    prompts: list[str] = Field(
        default_factory=lambda: ["The function returns", "This module provides", "In this case,"],
        title="Prompts",
        description="Continued by the model, as samples.",
    )


class PipelineParameters(_Parameters):
    """Raw pages to a trained, evaluated model."""

    name: str = Field("docs", title="Corpus name", pattern=_NAME)
    source: str = Field(EMBEDDED, title="Source", min_length=1, description="As for refresh_corpus.")
    curation: Literal["fineweb", "documentation"] = Field("documentation", title="Curation recipe")
    pretraining: Literal["smoke", "small", "base"] = Field("smoke", title="Pretraining recipe")
    overrides: dict[str, str] = Field(
        default_factory=dict,
        title="Changed settings",
        description="Single values: curation.KEY or pretraining.KEY.",
    )
    workers: int | None = Field(None, ge=1, le=10_000, title="Workers")
