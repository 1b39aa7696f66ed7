"""Licence and origin of the models and lists that rules read, by file: `tokenmill doctor` shows them.

A classifier's folder says both in its `classifier.json`. A file that a rule names (`Rule.files`), and a file inside a
package that a rule reads, has its row here. What a package states itself is in its metadata; what it does not is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tasks.model_files import parse_model

Kind = Literal["model", "list", "tokenizer"]

_OURS = "Apache-2.0, as this project"


@dataclass(frozen=True)
class FileFacts:
    """What a file is, and what it may be used for."""

    kind: Kind
    licence: str
    origin: str


@dataclass(frozen=True)
class PackagedFile:
    """A file inside an installed distribution, which is verified against what the distribution states."""

    distribution: str
    path: str
    """Below the folder of installed packages."""
    facts: FileFacts


FACTS: Mapping[str, FileFacts] = {
    "block_model.json": FileFacts(
        "model",
        f"{_OURS}; of the pages it holds numbers alone (WCXB's annotations: CC-BY-4.0)",
        "trained by tests.benchmarks.train_extraction on half of WCXB's development set and Debian's documentation",
    ),
    "word_list_en.txt": FileFacts("list", _OURS, "written for this project"),
    "languages.json": FileFacts(
        "list", f"{_OURS}; figures alone", "measured by `tokenmill thresholds` on Debian's manuals and the UDHR"
    ),
}
"""By the name of the file, which rules and recipes read and this project brings along."""

BY_LIBRARY: Mapping[str, tuple[PackagedFile, ...]] = {
    "py3langid": (
        PackagedFile(
            "py3langid",
            "py3langid/data/model.npz.xz",
            FileFacts("model", "BSD-3-Clause, as the package", "trained by the package's authors for 140 languages"),
        ),
    ),
    "tldextract": (
        PackagedFile(
            "tldextract",
            "tldextract/.tld_set_snapshot",
            FileFacts(
                "list", "MPL-2.0", "the Public Suffix List (publicsuffix.org), as it was at the package's release"
            ),
        ),
    ),
}
"""Data of the libraries that a rule names (`Rule.libraries`)."""

_FINEWEB_WORDS = FileFacts("list", "Apache-2.0, as the package", "words in addresses, by the makers of FineWeb")
URL_LISTS: tuple[PackagedFile, ...] = (
    PackagedFile(
        "datatrove",
        "datatrove/assets/url_filterblacklistsv0_3_0.tar.gz",
        FileFacts(
            "list",
            "the package states none but its own, Apache-2.0; the university gives its lists as CC BY-SA",
            "lists of addresses by the University of Toulouse (UT1), as the makers of FineWeb took them",
        ),
    ),
    *(
        PackagedFile("datatrove", f"datatrove/assets/{name}.txt", _FINEWEB_WORDS)
        for name in ("banned_words", "banned_subwords", "soft_banned_words")
    ),
)
"""Of the rule `url_filter`, where it uses the integrated lists."""

_SHORT_NAMES: Mapping[str, FileFacts] = {
    "lid.176.ftz": FileFacts(
        "model",
        "CC-BY-SA-3.0",
        "fastText's language identification for 176 languages (fasttext.cc); .65 is FineWeb's threshold for it",
    ),
}
BY_SHA256: Mapping[str, FileFacts] = {parse_model(name).sha256: facts for name, facts in _SHORT_NAMES.items()}
"""Of other people's models that have a short name, by hash: the same file may have another address."""
