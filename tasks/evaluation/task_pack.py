"""Packs of evaluation tasks: a folder with `pack.yaml` and files of rows, versioned, and known by their hashes.

    name: academic
    version: "1"
    description: ...
    licence: ...
    tasks:
      - name: arc_easy
        kind: multiple_choice          # tasks.evaluation.pack_rows: what a row of each kind holds
        files: [{path: arc_easy.jsonl.gz, sha256: ...}]
        keys: {gold: label}            # fields that stand under another key
        prompt_end: "\\nAnswer:"        # what follows the query; a choice follows after a space
        num_fewshot: 0
        chance: 0.25                   # what a model that knows nothing gets; 0 of the centred score
        main_metric: acc_norm

A pack holds data and no code: no template, no function of a file is ever run. `academic` describes sets that others
published, whose files a user brings along; `basics` is small, was written for this project, and comes with it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from tasks.evaluation.pack_reference import SHIPPED_PACKS, split_reference
from tasks.evaluation.pack_rows import FIELDS, Example, Kind, read_examples
from tasks.rule import Configuration

PACK_FILE = "pack.yaml"
PACKS = Path(__file__).parent / "packs"

Metric = Literal["acc", "acc_norm", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"]

METRICS: Mapping[Kind, tuple[Metric, ...]] = {
    "multiple_choice": ("acc", "acc_norm"),
    "last_word": ("acc", "perplexity"),
    "minimal_pairs": ("acc",),
    "perplexity": ("bits_per_byte", "byte_perplexity", "word_perplexity"),
}
"""What is measured, by the names that lm-evaluation-harness gives it; the first is the usual main one."""

HIGHER_IS_BETTER: Mapping[Metric, bool] = {metric: metric.startswith("acc") for metric in get_args(Metric)}

_NAME = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
_VERSION = r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,31}$"
_TAKEN = re.compile(r"bits_per_byte|loss|held_out(_documents|_bytes)?|gate\..*|.*_(low|high|contaminated)")
"""Names of an evaluation's own figures, among which a pack's score has its name."""


class PackFile(Configuration):
    """One file of rows."""

    path: str = Field(min_length=1, description="Relative to the folder of the pack's data; .jsonl or .jsonl.gz")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the file as it is stored")

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
            raise ValueError(f"{path!r} leads out of the pack's folder")
        if not path.endswith((".jsonl", ".jsonl.gz")):
            raise ValueError(f"{path!r} has to end in .jsonl or .jsonl.gz")
        return path


class TaskEntry(Configuration):
    """One task, as a pack's YAML has it."""

    name: str = Field(pattern=_NAME)
    kind: Kind
    description: str = ""
    files: tuple[PackFile, ...] = Field(min_length=1)
    keys: Mapping[str, str] = Field({}, description="By field of the kind, the key of a row that it stands under")
    exact: bool = Field(False, description="Texts keep the white space around them, which is else taken away")
    prompt_end: str = Field("", description="What follows the query of a multiple-choice task, such as '\\nAnswer:'")
    num_fewshot: int = Field(0, ge=0, le=64, description="Solved examples of the same task before each query")
    chance: float = Field(0.0, ge=0, lt=1, description="The main metric of a model that knows nothing")
    main_metric: Metric
    licence: str = ""
    origin: str = ""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> TaskEntry:
        if self.main_metric not in METRICS[self.kind]:
            raise ValueError(f"a {self.kind} task has the metrics {', '.join(METRICS[self.kind])}")
        if unknown := sorted(set(self.keys) - set(FIELDS[self.kind])):
            raise ValueError(f"keys names {unknown}; a {self.kind} task has the fields {', '.join(FIELDS[self.kind])}")
        if self.kind != "multiple_choice" and (self.prompt_end or self.num_fewshot):
            raise ValueError("prompt_end and num_fewshot are for multiple_choice tasks alone")
        return self


class PackDescription(Configuration):
    """A pack's YAML."""

    name: str = Field(pattern=_NAME)
    version: str = Field(pattern=_VERSION)
    description: str = ""
    licence: str = ""
    tasks: tuple[TaskEntry, ...] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _is_no_other_figures_name(cls, name: str) -> str:
        if _TAKEN.fullmatch(name):
            raise ValueError(f"{name!r} is the name of another figure; call the pack something else")
        return name

    @model_validator(mode="after")
    def _names_each_task_once(self) -> PackDescription:
        names = [task.name for task in self.tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the task {twice[0]} is there twice")
        return self


@dataclass(frozen=True)
class PackTask:
    """A task of a pack's YAML, and the folder of its data."""

    entry: TaskEntry
    data: Path

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def kind(self) -> Kind:
        return self.entry.kind

    @property
    def description(self) -> str:
        return self.entry.description

    @property
    def chance(self) -> float:
        return self.entry.chance

    @property
    def main_metric(self) -> Metric:
        return self.entry.main_metric

    @property
    def num_fewshot(self) -> int:
        return self.entry.num_fewshot

    @property
    def licence(self) -> str:
        return self.entry.licence

    @property
    def origin(self) -> str:
        return self.entry.origin

    @property
    def higher_is_better(self) -> bool:
        """Of the main metric."""
        return HIGHER_IS_BETTER[self.entry.main_metric]

    @property
    def files(self) -> tuple[tuple[Path, str], ...]:
        """Each file with its SHA-256."""
        return tuple((self.data / file.path, file.sha256) for file in self.entry.files)

    @property
    def sha256(self) -> str:
        """Of all that determines the task: its entry, in which the files' hashes stand."""
        return _sha256(self.entry)

    def examples(self) -> Iterator[Example]:
        """In the order of the files. Raises ValueError: which file, which line, which field; or both hashes."""
        return read_examples(self.files, self.entry.kind, self.entry.keys, exact=self.entry.exact)

    def choose(self, limit: int | None, seed: int = 0) -> list[Example]:
        """At most `limit` examples, in the order of the files: those with the smallest SHA-256 of seed and id.

        A larger choice contains every smaller one, and the parts of a task have their share of it.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"a limit of {limit} examples; it has to be at least 1, or none at all")
        examples = list(self.examples())
        if limit is None or limit >= len(examples):
            return examples
        by_hash = sorted(
            range(len(examples)),
            key=lambda number: hashlib.sha256(f"{seed}/{examples[number].id}".encode()).digest(),
        )
        return [examples[number] for number in sorted(by_hash[:limit])]


@dataclass(frozen=True)
class TaskPack:
    """Tasks that are measured together: all of a pack, or those of it that are meant."""

    name: str
    version: str
    sha256: str
    """Of all that determines these tasks."""
    description: str
    licence: str
    tasks: tuple[PackTask, ...]

    @property
    def reference(self) -> str:
        """For logs and tags: `academic@1 (sha256 0123456789ab)`."""
        return f"{self.name}@{self.version} (sha256 {self.sha256[:12]})"


def load_pack(reference: str | Path, data: Path | None = None, names: Sequence[str] | None = None) -> TaskPack:
    """A pack by the name of a shipped one, its folder, or its YAML file; `data` is the folder of its files.

    Without `data` they lie beside the YAML. With `names` it has those tasks alone, in the pack's order, and needs no
    file of others. Raises ValueError where pack, task or file is missing or wrong.
    """
    file = _pack_file(reference)
    folder = file.parent if data is None else Path(data)
    description = _description(file)
    if names is not None:
        description = description.model_copy(update={"tasks": _chosen(description, names)})
    tasks = tuple(PackTask(entry, folder) for entry in description.tasks)
    missing = [path for task in tasks for path, _ in task.files if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(
            f"the pack {description.name} needs {missing[0]}{more}: name the folder that holds its files,"
            f" {reference}=DIR; its tasks' origins say where they are from"
        )
    return TaskPack(
        name=description.name,
        version=description.version,
        sha256=_sha256(description),
        description=description.description,
        licence=description.licence,
        tasks=tasks,
    )


def named_pack(reference: str) -> TaskPack:
    """A pack as an operator names it (tasks.evaluation.pack_reference). Raises ValueError as `load_pack`."""
    parts = split_reference(reference)
    if parts.data is not None and not parts.data.is_absolute():
        raise ValueError(f"{reference!r}: the folder of the pack's files has to be a whole path")
    return load_pack(parts.place, parts.data, parts.names)


def _chosen(description: PackDescription, names: Sequence[str]) -> tuple[TaskEntry, ...]:
    there = [task.name for task in description.tasks]
    if unknown := [name for name in names if name not in there]:
        raise ValueError(f"the pack {description.name} has no task {unknown[0]!r}; it has {', '.join(there)}")
    if not names:
        raise ValueError(f"no task is named; the pack {description.name} has {', '.join(there)}")
    return tuple(task for task in description.tasks if task.name in names)


def _pack_file(reference: str | Path) -> Path:
    if str(reference) in SHIPPED_PACKS:
        return PACKS / str(reference) / PACK_FILE
    path = Path(reference)
    if path.is_dir():
        path = path / PACK_FILE
    if not path.is_file():
        raise ValueError(
            f"there is no task pack {str(reference)!r}: it is none of {', '.join(SHIPPED_PACKS)}, no folder with a"
            f" {PACK_FILE} and no YAML file"
        )
    return path


def _description(file: Path) -> PackDescription:
    try:
        described = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or a number of 5,000 digits
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    try:
        return PackDescription.model_validate(described)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the pack"
        raise ValueError(f"{file}: {where}: {first['msg'].removeprefix('Value error, ')}") from error


def _sha256(described: Configuration) -> str:
    canonical = json.dumps(described.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()
