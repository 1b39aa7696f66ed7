"""What tells languages apart: accuracy, speed, size and memory of every candidate, on the same texts.

    python -m tests.benchmarks.bench_language [--lid lid.176.ftz] [--repeats 5]

Candidates that are not installed are named as such; lid.176 is a file that is given, and the fastText model of our own
is trained on the way, in 15 s, on odd articles of the declaration, manuals and encyclopedia articles. A language counts
where the candidates in `CLAIMED_BY` claim it. Accuracy is the mean over languages; its interval is the bootstrap's
(1,000 times, texts within a language). Time is CPU time on the beginnings of the web pages, one text a call, candidates
in turns, the median; load time and memory are those of a process of its own. Below the table stands what the rule and
its stage cost beside bare prediction of the same pieces in one call.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from tasks.classifiers.fast_text import FastTextTraining, train_fast_text
from tasks.language_codes import language_code
from tasks.language_models import FastTextModel, beginning, identify
from tests.benchmarks.language_speed import in_turns, speed_facts
from tests.benchmarks.language_texts import DATA, manual_pages, pieces, udhr_articles, web_texts
from tests.benchmarks.report import report

Identify = Callable[[str], str]
SHORT_CHARS = (20, 50, 100, 200)
MAX_PIECES = 12
"""Of one length, language and declaration."""
CLAIMED_BY = ("py3langid", "pycld2", "lingua", "lid.176.ftz")
OWN = "fastText of our own"
OWN_TRAINING = FastTextTraining(
    dim=16, epoch=10, lr=0.5, word_ngrams=1, min_subword_chars=2, max_subword_chars=4, min_count=3, cutoff=60_000
)


@dataclass
class Candidate:
    """One way to tell the language. `load` raises ImportError where it is not installed."""

    name: str
    distribution: str
    licence: str
    load: Callable[[], tuple[Identify, frozenset[str]]]
    file: Path | None = None
    identify: Identify = field(init=False)
    languages: frozenset[str] = field(init=False)

    @property
    def megabytes(self) -> float:
        """On disk: its own file, or all of the distribution's."""
        if self.file is not None:
            return self.file.stat().st_size / 1e6
        files = importlib.metadata.files(self.distribution) or []
        return sum(Path(str(one.locate())).stat().st_size for one in files if Path(str(one.locate())).exists()) / 1e6


def canonical(code: str) -> str:
    """One code for what some candidates do not tell apart in writing, and for old codes."""
    return {"nb": "no", "iw": "he", "jw": "jv", "zh-Hant": "zh", "fil": "tl", "sh": "sr"}.get(code, code)


def _py3langid() -> tuple[Identify, frozenset[str]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    labels = LanguageIdentifier.from_model_file(MODEL_FILE).labels
    return lambda text: canonical(identify(text)[0]), frozenset(map(canonical, labels))


def _pycld2() -> tuple[Identify, frozenset[str]]:
    import pycld2

    def cld2(text: str) -> str:
        try:
            return canonical(pycld2.detect(text)[2][0][1])
        except pycld2.error:  # it refuses control codes
            printable = "".join(char for char in text if char.isprintable() or char.isspace())
            return canonical(pycld2.detect(printable)[2][0][1])

    return cld2, frozenset(canonical(code) for _, code in pycld2.LANGUAGES)


def _whatlang() -> tuple[Identify, frozenset[str]]:
    import whatlang

    claimed = "epo eng rus cmn spa por ita ben fra deu ukr kat ara hin jpn heb yid pol amh jav kor nob dan swe fin tur"
    claimed += " nld hun ces ell bul bel mar kan ron slv hrv srp mkd lit lav est tam vie urd tha guj uzb pan aze ind"
    claimed += " tel pes mal ori mya nep sin khm tuk aka zul sna afr lat slk cat tgl hye"

    def one(text: str) -> str:
        found = whatlang.detect(text)
        return canonical(language_code(f"{found.lang}_")) if found is not None else "und"

    return one, frozenset(canonical(language_code(f"{code}_x")) for code in claimed.split())


def _lingua() -> tuple[Identify, frozenset[str]]:
    from lingua import Language, LanguageDetectorBuilder

    detector = LanguageDetectorBuilder.from_all_languages().with_preloaded_language_models().build()

    def one(text: str) -> str:
        found = detector.detect_language_of(text)
        return canonical(found.iso_code_639_1.name.lower()) if found is not None else "und"

    return one, frozenset(canonical(language.iso_code_639_1.name.lower()) for language in Language.all())


def _fast_text(path: Path) -> Callable[[], tuple[Identify, frozenset[str]]]:
    def load() -> tuple[Identify, frozenset[str]]:
        model = FastTextModel(path)
        return (
            lambda text: canonical(model.identify([text])[0][0]),
            frozenset(map(canonical, model.languages)),
        )

    return load


def candidates(lid: Path | None, own: Path) -> list[Candidate]:
    found = [
        Candidate("py3langid", "py3langid", "BSD-3-Clause", _py3langid),
        Candidate("pycld2", "pycld2", "Apache-2.0", _pycld2),
        Candidate("whatlang", "whatlang-pyo3", "MIT", _whatlang),
        Candidate("lingua", "lingua-language-detector", "Apache-2.0", _lingua),
        Candidate(OWN, "fasttext-wheel", "of the texts", _fast_text(own), own),
    ]
    if lid is not None:
        found.insert(4, Candidate("lid.176.ftz", "fasttext-wheel", "CC-BY-SA-3.0", _fast_text(lid), lid))
    return found


def train_own(out: Path) -> int:
    """A fastText model of languages from the training half of what is here; how many examples it had."""

    def examples() -> Iterator[tuple[str, str]]:
        for code, articles in udhr_articles().items():
            for number, text in articles:
                if number % 2:
                    yield from ((code, piece) for chars in (50, 200) for piece in pieces(text, chars))
        for code, text in manual_pages(odd=False, num_pages=60):
            yield from ((canonical(code), piece) for piece in pieces(text, 200)[:40])
        with gzip.open(DATA / "text/wikitext2_valid.txt.gz", "rt", encoding="utf-8") as file:
            yield from (("en", piece) for piece in pieces(file.read(), 200)[:3000])

    return train_fast_text(examples(), OWN_TRAINING, out, quantised=True)


Texts = dict[str, list[str]]


def accuracy(candidate: Candidate, texts: Texts) -> tuple[float, float, float]:
    """Mean over languages of the share that is told right, and the bootstrap's interval of 95 %."""
    chance = np.random.Generator(np.random.PCG64(7))
    right = [np.array([candidate.identify(text) == code for text in some]) for code, some in sorted(texts.items())]
    means = np.mean([chance.binomial(len(one), one.mean(), 1000) / len(one) for one in right], axis=0)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(np.mean([one.mean() for one in right])), float(low), float(high)


def english(candidate: Candidate, texts: Texts) -> tuple[float, float]:
    """Precision and recall of "en", every language with equal weight."""
    shares = {code: np.mean([candidate.identify(text) == "en" for text in some]) for code, some in texts.items()}
    return float(shares["en"] / max(1e-9, sum(shares.values()))), float(shares["en"])


def footprint(name: str, arguments: Sequence[str]) -> tuple[float, float]:
    """Seconds to load and megabytes, of a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_language", "--footprint", name, *arguments]
    seconds, megabytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-2:]
    return float(seconds), float(megabytes)


def print_footprint(candidate: Candidate) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    start = time.process_time()
    one, _ = candidate.load()
    one("The mill stands by the river.")
    spent = time.process_time() - start
    print(spent, (process.memory_info().rss - before) / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description="candidates for telling languages apart")
    parser.add_argument("--lid", type=Path, help="lid.176.ftz")
    parser.add_argument("--own", type=Path, help="a model of our own that is trained already")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--footprint", help="print what one candidate needs, and end")
    arguments = parser.parse_args()
    if arguments.footprint:
        found = candidates(arguments.lid, arguments.own)
        print_footprint(next(one for one in found if one.name == arguments.footprint))
        return
    with tempfile.TemporaryDirectory() as folder:
        own = arguments.own or Path(folder) / "own.ftz"
        if arguments.own is None:
            print(f"{OWN}: {train_own(own):,} examples", flush=True)
        measure(candidates(arguments.lid, own), arguments.repeats, own, arguments.lid)


def measure(found: list[Candidate], repeats: int, own: Path, lid: Path | None) -> None:
    present, missing = [], []
    for candidate in found:
        try:
            candidate.identify, candidate.languages = candidate.load()
            present.append(candidate)
        except ImportError:
            missing.append(candidate.name)
    articles = udhr_articles()
    common = frozenset(articles).intersection(*(one.languages for one in present if one.name in CLAIMED_BY))
    even = {code: [text for number, text in articles[code] if number % 2 == 0] for code in sorted(common)}
    short = {
        chars: {
            code: [piece for text in some for piece in pieces(text, chars)][:MAX_PIECES] for code, some in even.items()
        }
        for chars in SHORT_CHARS
    }
    manuals: Texts = {}
    for code, text in manual_pages(odd=True, num_pages=15):
        manuals.setdefault(canonical(code), []).append(text[:1000])
    manuals = {code: some for code, some in manuals.items() if code in common}
    web = [beginning(text) for text in web_texts()]
    turns = in_turns(
        {one.name: (lambda one=one: [one.identify(text) for text in web]) for one in present}, len(web), repeats
    )
    arguments = ["--own", str(own), *(["--lid", str(lid)] if lid else [])]
    rows: list[list[object]] = []
    for one in present:
        mean, low, high = accuracy(one, even)
        precision, recall = english(one, short[50])
        load_s, memory_mb = footprint(one.name, arguments)
        rows.append(
            [
                one.name,
                len(one.languages),
                f"{mean:.3f} ({low:.3f}-{high:.3f})",
                *(round(accuracy(one, {c: t for c, t in short[chars].items() if t})[0], 3) for chars in SHORT_CHARS),
                round(precision, 3),
                round(recall, 3),
                round(accuracy(one, manuals)[0], 3),
                sum(one.identify(text) == "en" for text in web),
                round(turns.median(one.name), 3),
                round(one.megabytes, 1),
                round(memory_mb),
                round(load_s, 2),
                one.licence,
            ]
        )
    report(
        "language",
        [
            "candidate",
            "languages",
            "articles",
            *(f"{chars} chars" for chars in SHORT_CHARS),
            "en precision",
            "en recall",
            "manuals",
            f"web en of {len(web)}",
            "CPU ms a text",
            "MB on disk",
            "MB memory",
            "load s",
            "licence",
        ],
        rows,
        {
            "not_installed": ", ".join([*missing, *([] if lid else ["lid.176.ftz (give it with --lid)"])]) or "none",
            "common_languages": len(common),
            "articles": sum(map(len, even.values())),
            "manual_pages": sum(map(len, manuals.values())),
            "manual_languages": len(manuals),
            **speed_facts(web_texts(), lid, repeats),
        },
    )


if __name__ == "__main__":
    main()
