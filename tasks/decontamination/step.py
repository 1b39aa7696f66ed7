"""The rule of the stage `decontaminate`: documents without the examples that models are evaluated on.

Source: GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C), which removes every 13-gram of a benchmark from its
training text, with 200 characters on both sides, and drops what would be in more than ten pieces. Here exactly what
stands in an example goes, and a document that is examples for a good part goes as a whole. Other than there, an n-gram
of many documents is removed from all of them: the report on a corpus that was not decontaminated
(tasks.decontamination.report) says beforehand which these are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from tasks.decontamination.sought import sought_in_packs, sought_in_texts, texts_sha256
from tasks.decontamination.words import MIN_WORDS, NGRAM_WORDS, words_of
from tasks.document import Decision, Document, Drop, Keep, Rewrite
from tasks.evaluation.pack_reference import SHIPPED_PACKS, split_reference
from tasks.evaluation.task_pack import PACK_FILE, PACKS, TaskPack, named_pack
from tasks.formatters.edits import apply_edits
from tasks.manifest import fingerprint
from tasks.rule import Rule


class Decontamination(Rule):
    """Removes from a document what is also in an example of a task pack, or drops such a document.

    Reasons of a Drop: contaminated (detail: task and example), contaminated_share (value: words in examples, of all;
    detail: the same), empty (also where nothing is left). Edits: span_removed, with task and example as the reason,
    `academic/arc_easy 0123456789abcdef`; of a file of texts its name stands for the task.

    What is removed from a document stands in the version's edits, as all that is edited does.
    """

    kind: Literal["decontaminate"] = "decontaminate"
    libraries: ClassVar[tuple[str, ...]] = ("numpy",)

    packs: tuple[str, ...] = Field(
        (),
        description="Task packs, NAME[=DIR][:task,task]: a shipped one's name (basics) or the whole path of a pack's"
        " folder or YAML file, with the folder of its files where they lie elsewhere, as in academic=/data/eval, and"
        " with single tasks of it. Every worker has to see these paths.",
    )
    texts: tuple[str, ...] = Field(
        (), description='Whole paths of further files to look for: JSON lines, plain or gzip, with a field "text".'
    )
    action: Literal["remove_span", "drop"] = Field(
        "remove_span", description="What becomes of a document with an example in it: kept without it, or dropped."
    )
    ngram_words: int = Field(
        NGRAM_WORDS,
        ge=5,
        le=100,
        description="Words in a row, as in an example, that are contamination (GPT-3: 13). What more than 100 different"
        " examples of a pack or file share is what they are asked with, and is not looked for.",
    )
    min_words: int = Field(
        MIN_WORDS,
        ge=3,
        description="A question, answer or sentence of fewer words than that is looked for as a whole, if it has so"
        " many (GPT-3: 8).",
    )
    max_removed_fraction: float = Field(
        0.3,
        ge=0.0,
        le=1.0,
        description="With remove_span: a document of which a larger share of the words is in examples is dropped. Our"
        " own choice.",
    )

    @field_validator("packs")
    @classmethod
    def _packs_are_whole_paths(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            parts = split_reference(name)
            _check_whole(name, *([] if parts.place in SHIPPED_PACKS else [parts.place]), str(parts.data or "/"))
        return names

    @field_validator("texts")
    @classmethod
    def _texts_are_whole_paths(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        for file in files:
            _check_whole(file, file)
        return files

    @model_validator(mode="after")
    def _looks_for_shorter_passages(self) -> Self:
        if self.min_words > self.ngram_words:
            raise ValueError(f"min_words={self.min_words} is more than ngram_words={self.ngram_words}; lower it")
        return self

    @property
    def is_on(self) -> bool:
        """Whether there is anything to look for."""
        return bool(self.packs or self.texts)

    def task_packs(self) -> tuple[TaskPack, ...]:
        """All of `packs`. Raises ValueError where one is not there or not whole."""
        return tuple(map(named_pack, self.packs))

    def files(self) -> tuple[Path, ...]:
        """The packs' descriptions, and all files of examples."""
        of_packs = (file for pack in self.task_packs() for task in pack.tasks for file, _ in task.files)
        return (*(_description_file(name) for name in self.packs), *of_packs, *map(Path, self.texts))

    def looked_for(self) -> dict[str, str]:
        """SHA-256 of each pack and file by its name: with that it determines the output, wherever it lies.

        Raises ValueError where two have one name: edits and ledger could not tell them apart.
        """
        hashes = [(pack.name, pack.sha256) for pack in self.task_packs()]
        hashes += [(file.name, texts_sha256(file)) for file in map(Path, self.texts)]
        names = [name for name, _ in hashes]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"decontamination has {twice[0]} twice; name it once, or rename one of the two")
        return dict(sorted(hashes))

    def coverage(self) -> dict[str, dict[str, Any]]:
        """Of each pack and file by its name: sha256, num_examples, and num_searched, of which anything is looked for.

        Raises ValueError as `looked_for` and `build`.
        """
        hashes = self.looked_for()
        key = self._key(hashes)
        if hashes and key not in _NUM_SEARCHED:
            self.build()
        known = _NUM_SEARCHED.get(key, {})
        return {
            name: {"sha256": sha256, "num_examples": known[name][0], "num_searched": known[name][1]}
            for name, sha256 in hashes.items()
        }

    def _key(self, hashes: Mapping[str, str]) -> str:
        return fingerprint({"looked_for": hashes, "ngram_words": self.ngram_words, "min_words": self.min_words})

    def build(self) -> Callable[[Document], Decision]:
        """Raises ValueError, with file and line, for a row that is no example, and where nothing of a file is one."""
        from tasks.decontamination.index import ExampleIndex  # numpy is not needed for a configuration
        from tasks.decontamination.removal import named, removals, stretches

        hashes = self.looked_for()
        sought = (*sought_in_packs(self.task_packs()), *sought_in_texts(map(Path, self.texts)))
        index = ExampleIndex(sought, ngram_words=self.ngram_words, min_words=self.min_words)
        self._check_searched(hashes, index.num_searched())

        def decide(document: Document) -> Decision:
            text = document.text
            if not text.strip():
                return Drop("empty")
            found = index.find(text)
            if not found:
                return Keep()
            if self.action == "drop":
                return Drop("contaminated", detail=named(index, found))
            contaminated = stretches(index, found)
            fraction = sum(stretch.num_words for stretch in contaminated) / len(words_of(text))
            if fraction > self.max_removed_fraction:
                return Drop("contaminated_share", fraction, self.max_removed_fraction, named(index, found))
            edits = removals(text, contaminated)
            left = apply_edits(text, edits)
            return Rewrite(left, edits) if left.strip() else Drop("empty")

        return decide

    def _check_searched(self, hashes: Mapping[str, str], num_searched: Mapping[str, tuple[int, int]]) -> None:
        """Keeps the counts for `coverage`. ValueError where nothing of a pack or file can be looked for."""
        counts = {name: num_searched.get(name, (0, 0)) for name in hashes}
        for name, (num_examples, searched) in counts.items():
            if not searched:
                raise ValueError(
                    f"decontamination: of the {num_examples:,} examples of {name} none can be looked for, each being"
                    f" shorter than min_words={self.min_words} or in words that many others have too; lower min_words,"
                    " or leave it out"
                )
        _NUM_SEARCHED[self._key(hashes)] = counts


_NUM_SEARCHED: dict[str, Mapping[str, tuple[int, int]]] = {}
"""What this process has counted, by what was looked for: examples of each name, and those that are looked for."""


def _description_file(name: str) -> Path:
    """The YAML of one of `packs`, which is there."""
    pack = split_reference(name).place
    path = PACKS / pack if pack in SHIPPED_PACKS else Path(pack)
    return path / PACK_FILE if path.is_dir() else path


def _check_whole(name: str, *paths: str) -> None:
    """ValueError for a path that depends on the folder it is used in."""
    if not all(path.startswith("/") for path in paths):
        raise ValueError(f"{name!r} has to be a whole path, because workers run in folders of their own")
