"""The tokenizer of a corpus, kept from version to version.

tokenizers/<corpus name>/<configuration>/<generation>/   tokenizer.json, manifest.json

The first version of a name that is tokenised with a configuration trains generation 1; all later versions take it, so
that only their changed buckets are packed and a model can be trained on with the same tokens. A retraining makes the
next generation, which then is the latest. A generation never changes: who began with an older one goes on with it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.atomic import link_file, locked, new_directory, write_json
from tasks.manifest import MANIFEST, SCHEMA_VERSION, fingerprint, read_manifest
from tasks.ports import ShardMap
from tasks.remote import TakenError
from tasks.stages import Progress, Stage, run_stage
from tasks.store import Store, checked_name
from tasks.tokenizer import (
    TOKENIZER_FILE,
    HeldOutSplit,
    TokenizerConfig,
    TokenizerTraining,
    load_tokenizer,
    tokenizer_hash,
    tokenizer_shard,
)

STAGE = "tokenizer"
_DIGITS = 16  # of a fingerprint, in the name of a folder


@dataclass(frozen=True)
class TokenizerChoice:
    """Which generation a version is to be packed with, before it need be there."""

    generation: int
    is_made: bool = False
    required_digest: str = ""
    """Of the corpus version that it must have been trained on, for a retraining; empty: on any."""


@dataclass(frozen=True)
class TrainedTokenizer:
    """A generation that is there, in the store's folder."""

    folder: Path
    generation: int
    sha256: str
    corpus: str  # name@version that it was trained on
    corpus_digest: str

    @property
    def file(self) -> Path:
        return self.folder / TOKENIZER_FILE

    @property
    def facts(self) -> dict[str, Any]:
        """As a training run records it."""
        return {"generation": self.generation, "sha256": self.sha256, "trained_on": self.corpus}


@dataclass(frozen=True)
class TokenizerLine:
    """The generations of one corpus name under one configuration."""

    store: Store
    name: str  # of the corpus
    config: TokenizerConfig
    held_out_fraction: float

    @property
    def folder(self) -> Path:
        identity = {"tokenizer": self.config, "held_out_fraction": self.held_out_fraction}
        return self.store.tokenizers / checked_name(self.name) / fingerprint(identity)[:_DIGITS]

    def generations(self) -> list[int]:
        """Those that are complete, here or in the store's remote, ascending."""
        here = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        names = {name for name in [*here, *self.store.remote_folders(self.folder)] if name.isdecimal()}
        return sorted(int(name) for name in names if self._manifest(int(name)) is not None)

    def choose(self, corpus_digest: str, *, retrain: bool = False) -> TokenizerChoice:
        """The generation for a version with this digest: the latest, or with `retrain` the one that was trained on it.

        Where there is none, it is the next one, still to be made. Nothing is fetched or written.
        """
        known = self.generations()
        if not retrain:
            return TokenizerChoice(known[-1], True) if known else TokenizerChoice(1)
        for generation in reversed(known):
            manifest = self._manifest(generation)
            if manifest is not None and manifest["corpus_digest"] == corpus_digest:
                return TokenizerChoice(generation, True, corpus_digest)
        return TokenizerChoice(known[-1] + 1 if known else 1, False, corpus_digest)

    def chosen(self, generation: int) -> TokenizerChoice:
        """A generation that was chosen before."""
        return TokenizerChoice(generation, self._manifest(generation) is not None)

    def obtain(
        self,
        choice: TokenizerChoice,
        corpus: Path,
        manifest: Mapping[str, Any],
        split: HeldOutSplit,
        shard_map: ShardMap,
        progress: Progress,
    ) -> TrainedTokenizer:
        """The chosen generation; trained on `corpus`, whose manifest and split are given, where it is not there.

        Processes that need the same one wait for the first, and machines of one remote take what was published first.
        Raises ValueError where it is there by now, and was trained on something else than it had to be.
        """
        folder = self.folder / str(choice.generation)
        with locked(self.store.root / "locks" / f"tokenizer-{self.name}-{self.folder.name}.lock"):
            if self.store.fetch(folder):
                progress(STAGE, 1, 1, note=f"generation {choice.generation}, made before")
            else:
                self._train(folder, corpus, manifest, split, shard_map, progress)
            try:
                self.store.upload(folder)
            except TakenError:  # the name means that one now: the one here is gone
                self.store.fetch(folder)
        found = read_manifest(folder)
        assert found is not None, f"{folder} was published a moment ago"
        if choice.required_digest not in ("", found["corpus_digest"]):
            raise ValueError(
                f"generation {choice.generation} of the tokenizer of {self.name} has been trained on {found['corpus']}"
                " by another run in the meantime: run the same again, it makes the next one"
            )
        sha256 = tokenizer_hash(folder / TOKENIZER_FILE)
        if sha256 != found["sha256"]:
            raise ValueError(f"{folder / TOKENIZER_FILE} is damaged: it is not what {MANIFEST} says; restore it")
        return TrainedTokenizer(folder, choice.generation, sha256, found["corpus"], found["corpus_digest"])

    def _train(
        self,
        folder: Path,
        corpus: Path,
        manifest: Mapping[str, Any],
        split: HeldOutSplit,
        shard_map: ShardMap,
        progress: Progress,
    ) -> None:
        identity = {"corpus": manifest["digest"], "tokenizer": self.config, "split": split}
        stage = Stage(STAGE, identity, ("tokenizers",), modules=("tasks.tokenizer",))
        training = TokenizerTraining(corpus, split, self.config)
        trained = run_stage(stage, self.store.work, shard_map, tokenizer_shard, [training], progress=progress)
        file = trained.shards[0] / TOKENIZER_FILE
        sha256 = tokenizer_hash(file)
        with new_directory(folder) as directory:
            link_file(file, directory / TOKENIZER_FILE)
            facts = {
                "schema_version": SCHEMA_VERSION,
                "name": self.name,
                "generation": int(folder.name),
                "corpus": f"{manifest['name']}@{manifest['version']}",
                "corpus_digest": manifest["digest"],
                "tokenizer": self.config.model_dump(mode="json"),
                "held_out": split.model_dump(mode="json"),
                "sha256": sha256,
                "vocab_size": load_tokenizer(file).get_vocab_size(),
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "parts": [{"path": TOKENIZER_FILE, "sha256": sha256}],
            }
            write_json(directory / MANIFEST, facts)

    def _manifest(self, generation: int) -> dict[str, Any] | None:
        """Of a complete generation, here or in the remote; None where there is none."""
        folder = self.folder / str(generation)
        manifest = read_manifest(folder)
        if manifest is None and (content := self.store.remote_manifest(folder)) is not None:
            manifest = json.loads(content)
        return manifest
