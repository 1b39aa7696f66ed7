"""Every model, list and tokenizer that recipes need: what it is, whose, how large, and whether it is here and whole.

Looks at files alone; what of MLflow's registry is not in the store yet is for infra/doctor.py to find.
"""

from __future__ import annotations

import base64
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.classifiers.bundle import load_bundle
from tasks.decontamination.sought import texts_sha256
from tasks.evaluation.pack_rows import checked_bytes
from tasks.evaluation.task_pack import named_pack
from tasks.extract import Extraction
from tasks.manifest import MANIFEST, file_sha256
from tasks.model_cache import has_model
from tasks.model_facts import BY_LIBRARY, BY_SHA256, FACTS, URL_LISTS, FileFacts, Kind, PackagedFile
from tasks.model_files import CLASSIFIER_FILE, SINGLE_FILE, ModelReference, parse_model, written_out
from tasks.recipes.curation import CurationRecipe
from tasks.rule import Rule
from tasks.store import Store
from tasks.tokenizer import TOKENIZER_FILE
from tasks.url_filter import UrlFilter

_INSTALL_AGAIN = "install this project again"


@dataclass(frozen=True)
class NeededFile:
    """A model, list or tokenizer."""

    name: str
    kind: Kind
    used_by: tuple[str, ...]
    """Parts of recipes: "fineweb: toxicity"."""
    licence: str
    origin: str
    sha256: str = ""
    """Empty: it is no file, or is not known before it is resolved."""
    size_bytes: int | None = None
    """Of a classifier's folder as a whole. None: not here, or no file."""
    reference: str = ""
    """What a recipe names it by; empty where it comes with the program or a package."""
    problem: str = ""
    """Why a run would fail, and what to do; empty: it is here and whole."""
    fetchable: bool = False
    """Whether `--fetch` may mend that."""


def needed_files(
    recipes: Sequence[CurationRecipe], store: Store, references: Iterable[str] = ()
) -> tuple[NeededFile, ...]:
    """What `recipes` need, each file once, and the models `references`. Raises ValueError for an impossible name."""
    found: dict[str, NeededFile] = {}
    named = (("", _named(reference, store)) for reference in references)
    for user, file in (*named, *(each for recipe in recipes for each in _of_recipe(recipe, store))):
        key = file.reference or f"{file.name} {file.sha256}"
        known = found.setdefault(key, file)
        if user and user not in known.used_by:
            found[key] = replace(known, used_by=(*known.used_by, user))
    return tuple(sorted(found.values(), key=lambda file: (file.kind, file.name)))


def trained_tokenizers(store: Store) -> tuple[NeededFile, ...]:
    """The tokenizers in the store. Pretraining trains them, and none is ever fetched from elsewhere."""
    found = []
    for file in sorted(store.tokenizers.glob(f"*/*/*/{TOKENIZER_FILE}")):
        corpus, _, generation = file.relative_to(store.tokenizers).parts[:3]
        manifest = file.with_name(MANIFEST)
        if not manifest.is_file():
            continue
        trained_on = json.loads(manifest.read_bytes()).get("corpus", corpus)
        found.append(
            NeededFile(
                f"{corpus}, generation {generation}",
                "tokenizer",
                (f"pretraining on {corpus}",),
                "as the corpus",
                f"trained on {trained_on}",
                file_sha256(file),
                file.stat().st_size,
            )
        )
    return tuple(found)


def _of_recipe(recipe: CurationRecipe, store: Store) -> Iterator[tuple[str, NeededFile]]:
    """Each part of the recipe that reads a file, and that file."""
    rules = (recipe.url_filter, recipe.language, *recipe.quality_rules, *recipe.toxicity_rules)
    parts: list[tuple[str, Rule | Extraction]] = [("extraction", recipe.extraction)]
    parts += [(str(getattr(rule, "kind", "")), rule) for rule in rules]
    tokenizing = []
    yield from _decontamination(recipe)
    for kind, part in parts:
        user = f"{recipe.name}: {kind}"
        if reference := str(getattr(part, "model", "")):
            yield user, _named(reference, store)
        else:
            yield from ((user, _brought_along(file)) for file in part.files())
        yield from ((user, _packaged(each)) for library in part.libraries for each in BY_LIBRARY.get(library, ()))
        if isinstance(part, UrlFilter) and part.use_integrated_lists:
            yield from ((user, _packaged(each)) for each in URL_LISTS)
        if "spacy" in part.libraries:
            tokenizing.append(user)
    for language in recipe.language.languages if tokenizing else ():
        words = _words_of(language)
        yield from ((user, words) for user in tokenizing)
    if recipe.name == "fineweb2":
        from tasks.recipes.languages import LANGUAGES_FILE

        yield recipe.name, _brought_along(LANGUAGES_FILE)


def _decontamination(recipe: CurationRecipe) -> Iterator[tuple[str, NeededFile]]:
    """The task packs and files of texts that no document is to hold, each pack as one. The files are verified."""
    user, rule = f"{recipe.name}: decontaminate", recipe.decontamination
    for name in rule.packs:
        facts = FileFacts("list", "as the pack says", name)
        try:
            pack = named_pack(name)
            files = [checked_bytes(file, sha256) for task in pack.tasks for file, sha256 in task.files]
        except ValueError as error:
            yield user, replace(_file(f"task pack {name}", facts, "", None), problem=str(error))
            continue
        facts = replace(facts, licence=pack.licence or "the pack states none")
        yield user, _file(f"task pack {pack.name}@{pack.version}", facts, pack.sha256, sum(map(len, files)))
    for text in map(Path, rule.texts):
        facts = FileFacts("list", "not known here: it is the user's own", str(text))
        try:
            yield user, _file(text.name, facts, texts_sha256(text), text.stat().st_size)
        except ValueError as error:
            yield user, replace(_file(text.name, facts, "", None), problem=str(error))


def _named(reference: str, store: Store) -> NeededFile:
    """A model that is named, in the store or not."""
    reference = written_out(reference)
    parsed = parse_model(reference)
    folder = store.models / parsed.sha256
    if parsed.sha256 and has_model(store.models, parsed.sha256):
        if (folder / CLASSIFIER_FILE).is_file():
            return replace(_classifier(folder), reference=reference)
        facts = _facts_of(parsed)
        size = (folder / SINGLE_FILE).stat().st_size
        return _file(_short(parsed), facts, parsed.sha256, size, reference)
    facts = _facts_of(parsed)
    is_changed = parsed.sha256 and folder.exists()
    state = "is in the store, and not what its hash says" if is_changed else "is not in the store"
    problem = f"it {state}: bring it with --fetch"
    return replace(_file(_short(parsed), facts, parsed.sha256, None, reference), problem=problem, fetchable=True)


def _short(parsed: ModelReference) -> str:
    return parsed.source.rstrip("/").rpartition("/")[2] or f"{parsed.name}@{parsed.version_or_alias}"


def _facts_of(parsed: ModelReference) -> FileFacts:
    origin = parsed.source or "MLflow's registry"
    facts = BY_SHA256.get(parsed.sha256) or FileFacts("model", "not known here: see where it is from", "")
    return replace(facts, origin="; ".join(part for part in (facts.origin, origin) if part))


def _file(name: str, facts: FileFacts, sha256: str, size_bytes: int | None, reference: str = "") -> NeededFile:
    return NeededFile(name, facts.kind, (), facts.licence, facts.origin, sha256, size_bytes, reference)


def _classifier(folder: Path) -> NeededFile:
    """A classifier's folder, verified; ValueError where it is not whole."""
    bundle = load_bundle(folder)
    size = sum(file.stat().st_size for file in bundle.files())
    facts = FileFacts("model", bundle.classifier.licence, bundle.classifier.origin)
    return _file(f"classifier {bundle.classifier.name}", facts, bundle.sha256, size)


def _brought_along(file: Path) -> NeededFile:
    """A file of this project that a rule names."""
    if file.name == CLASSIFIER_FILE:
        try:
            return _classifier(file.parent)
        except ValueError as error:
            facts = FileFacts("model", _INSTALL_AGAIN, _INSTALL_AGAIN)
            return replace(
                _file(f"classifier {file.parent.name}", facts, "", None), problem=f"{error}; {_INSTALL_AGAIN}"
            )
    facts = FACTS.get(file.name) or FileFacts("model", "not known here", str(file))
    if not file.is_file():
        return replace(_file(file.name, facts, "", None), problem=f"{file} is missing: {_INSTALL_AGAIN}")
    return _file(file.name, facts, file_sha256(file), file.stat().st_size)


def _packaged(wanted: PackagedFile) -> NeededFile:
    """A file of an installed distribution, compared with the hash that this one was installed with."""
    version = importlib.metadata.version(wanted.distribution)
    facts = replace(wanted.facts, origin=f"{wanted.facts.origin}; inside {wanted.distribution} {version}")
    name = f"{wanted.distribution}: {Path(wanted.path).name}"
    entries = importlib.metadata.files(wanted.distribution) or []
    entry = next((each for each in entries if str(each) == wanted.path), None)
    file = Path(str(entry.locate())) if entry is not None else None
    if entry is None or file is None or not file.is_file():
        problem = f"it is missing in {wanted.distribution} {version}: {_INSTALL_AGAIN}"
        return replace(_file(name, facts, "", None), problem=problem)
    found = _file(name, facts, file_sha256(file), file.stat().st_size)
    if entry.hash is None or _hexadecimal(entry.hash.value) == found.sha256:
        return found
    stated = _hexadecimal(entry.hash.value)
    problem = f"its SHA-256 is {found.sha256}, and {wanted.distribution} {version} states {stated}: {_INSTALL_AGAIN}"
    return replace(found, problem=problem)


def _hexadecimal(record_hash: str) -> str:
    """A hash as a distribution's RECORD writes it: base64 for addresses, without padding (PEP 376 and 427)."""
    return base64.urlsafe_b64decode(record_hash + "=" * (-len(record_hash) % 4)).hex()


def _words_of(language: str) -> NeededFile:
    """The word tokenizer of a language: rules in a package's code, no file."""
    from tasks.words import tokenizer_of  # takes a second to import

    version = importlib.metadata.version("spacy")
    facts = FileFacts(
        "tokenizer", "MIT, as spaCy", f"rules inside spacy {version}, or the package that datatrove names"
    )
    words = _file(f"words of {language}", facts, "", None)
    try:
        tokenizer_of(language)
    except ValueError as error:
        return replace(words, problem=str(error))
    return words
