"""Texts whose language is known, for measuring what tells languages apart.

- The Universal Declaration of Human Rights, by article: odd articles are for training, even ones for measuring.
- Manuals of Debian, translated whole: the installation guide and Apache's; a page is for training where the SHA-256 of
  its file's name is even.
- The main contents of the annotated web pages, all English but one.
- Program code without documentation pages around it: files of the installed Python, C headers, scripts of web pages.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import lxml.html

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
DEBIAN = Path("/usr/share/doc")
MIN_ARTICLES = 20  # found by their headings
MIN_CHARS = 60

UDHR = {
    "af": "Afrikaans-Latin1", "ar": "Arabic_Alarabia-Arabic", "be": "Belorus_Belaruski-UTF8",
    "bg": "Bulgarian_Balgarski-UTF8", "bn": "Bengali-UTF8", "br": "Breton-Latin1", "bs": "Bosnian_Bosanski-UTF8",
    "ca": "Catalan-Latin1", "cs": "Czech-UTF8", "cy": "Welsh_Cymraeg-Latin1", "da": "Danish_Dansk-Latin1",
    "de": "German_Deutsch-Latin1", "el": "Greek_Ellinika-UTF8", "en": "English-Latin1", "eo": "Esperanto-UTF8",
    "es": "Spanish-Latin1", "et": "Estonian_Eesti-Latin1", "eu": "Basque_Euskara-Latin1", "fa": "Farsi_Persian-UTF8",
    "fi": "Finnish_Suomi-Latin1", "fr": "French_Francais-Latin1", "fy": "Frisian-Latin1",
    "ga": "IrishGaelic_Gaeilge-Latin1", "gd": "ScottishGaelic_GaidhligAlbanach-Latin1", "gl": "Galician_Galego-Latin1",
    "gu": "Gujarati-UTF8", "he": "Hebrew_Ivrit-UTF8", "hi": "Hindi-UTF8", "hr": "Croatian_Hrvatski-Latin2",
    "ht": "HaitianCreole_Kreyol-Latin1", "hu": "Hungarian_Magyar-UTF8", "id": "Indonesian-Latin1",
    "is": "Icelandic_Yslenska-Latin1", "it": "Italian-Latin1", "ja": "Japanese_Nihongo-UTF8", "jv": "Javanese-Latin1",
    "kk": "Kazakh-UTF8", "kn": "Kannada-UTF8", "ko": "Korean_Hankuko-UTF8", "la": "Latin_Latina-Latin1",
    "lb": "Luxembourgish_Letzebuergeusch-Latin1", "lt": "Lithuanian_Lietuviskai-Baltic", "lv": "Latvian-Latin1",
    "mg": "Malagasy-Latin1", "mk": "Macedonian-UTF8", "mn": "Mongolian_Khalkha-UTF8", "mr": "Marathi-UTF8",
    "ms": "Malay_BahasaMelayu-Latin1", "mt": "Maltese-UTF8", "my": "Burmese_Myanmar-UTF8", "ne": "Nepali-UTF8",
    "nl": "Dutch_Nederlands-Latin1", "nn": "Norwegian_Norsk-Nynorsk-Latin1", "no": "Norwegian_Norsk-Bokmal-Latin1",
    "oc": "OccitanLanguedocien-Latin1", "pa": "Punjabi_Panjabi-UTF8", "pl": "Polish-Latin2",
    "pt": "Portuguese_Portugues-Latin1", "ro": "Romanian-Latin2", "ru": "Russian-UTF8", "rw": "Kinyarwanda-Latin1",
    "si": "Sinhala-UTF8", "sk": "Slovak-Latin2", "sl": "Slovenian_Slovenscina-Latin2", "so": "Somali-Latin1",
    "sq": "Albanian_Shqip-Latin1", "sr": "Serbian_Srpski-UTF8", "sv": "Swedish_Svenska-Latin1",
    "sw": "Swahili_Kiswahili-Latin1", "ta": "Tamil-UTF8", "tl": "Filipino_Tagalog-Latin1",
    "tr": "Turkish_Turkce-UTF8", "ug": "Uighur_Uyghur-UTF8", "uk": "Ukrainian-UTF8", "ur": "Urdu-UTF8",
    "uz": "Uzbek-Latin1", "vi": "Vietnamese-UTF8", "wo": "Wolof-Latin1", "xh": "Xhosa-Latin1", "yo": "Yoruba-UTF8",
    "zh": "Chinese_Mandarin-UTF8", "zu": "Zulu-Latin1",
}  # fmt: skip
"""A file of the declaration for each language; of several encodings the newest."""

_ENCODINGS = {
    "UTF8": "utf-8-sig", "Latin1": "cp1252", "Latin2": "iso8859-2", "Arabic": "cp1256", "Baltic": "iso8859-4",
}  # fmt: skip
_NUMBER = re.compile(r"\d+")


def udhr_articles() -> dict[str, list[tuple[int, str]]]:
    """Of each language, its articles with their numbers."""
    found = {}
    with zipfile.ZipFile(io.BytesIO((DATA / "text/udhr.zip").read_bytes())) as archive:
        names = set(archive.namelist())
        for code, name in UDHR.items():
            if f"udhr/{name}" not in names:
                continue
            encoding = _ENCODINGS[name.rpartition("-")[2]]
            articles = _articles(archive.read(f"udhr/{name}").decode(encoding, "replace"))
            if len(articles) >= MIN_ARTICLES // 2:
                found[code] = articles
    return found


def _articles(text: str) -> list[tuple[int, str]]:
    """Cut at short lines with the next number that is due; where there are too few such, into 30 runs of lines."""
    articles: list[tuple[int, list[str]]] = []
    due = 1
    for line in text.splitlines():
        numbers = [int(number) for number in _NUMBER.findall(line)] if len(line.strip()) < 40 else []
        if len(numbers) == 1 and due <= numbers[0] <= min(30, due + 1):
            articles.append((numbers[0], []))
            due = numbers[0] + 1
        elif articles:
            articles[-1][1].append(line)
    if len(articles) < MIN_ARTICLES:
        lines = [line for line in text.splitlines() if len(line) >= MIN_CHARS or not line.isascii()]
        articles = [(part + 1, lines[part * len(lines) // 30 : (part + 1) * len(lines) // 30]) for part in range(30)]
    joined = ((number, " ".join(" ".join(lines).split())) for number, lines in articles)
    return [(number, text) for number, text in joined if len(text) >= MIN_CHARS]


def manual_pages(odd: bool, num_pages: int) -> Iterator[tuple[str, str]]:
    """(language, text) of so many pages of each manual and language, the first in order of hash."""
    for pattern in ("installation-guide-amd64/*/*.html", "apache2-doc/manual/*/**/*.html"):
        by_folder: dict[str, list[Path]] = {}
        for file in DEBIAN.glob(pattern):
            by_folder.setdefault(file.relative_to(DEBIAN / pattern.partition("/*")[0]).parts[0], []).append(file)
        for folder, files in sorted(by_folder.items()):
            code = folder.replace("-", "_").partition("_")[0]
            if not (code.isalpha() and len(code) == 2):
                continue
            num_left = num_pages
            for file in sorted(files, key=_hash):
                if num_left and int(_hash(file), 16) % 2 == odd and (text := _main_text(file)):
                    num_left -= 1
                    yield code, text


def _main_text(file: Path) -> str:
    """Paragraphs, list items and headings of a page; empty where there is little."""
    tree = lxml.html.fromstring(file.read_bytes())
    texts = (" ".join(element.text_content().split()) for element in tree.xpath("//p | //dd | //h1 | //h2"))
    text = "\n".join(text for text in texts if text)
    return text if sum(map(str.isalpha, text)) >= 200 else ""


def _hash(file: Path) -> str:
    return hashlib.sha256(str(file.relative_to(DEBIAN)).encode()).hexdigest()


def code_files(num_files: int) -> dict[str, list[str]]:
    """So many files of program code of each kind, the first in order of hash, of 400 to 100,000 bytes."""
    library = Path(next(path for path in sys.path if path.endswith("site-packages")))
    places = {
        "Python": (library, "*/**/*.py"),
        "C headers": (Path("/usr/include"), "**/*.h"),
        "JavaScript": (library, "**/*.js"),
    }
    found: dict[str, list[str]] = {}
    for kind, (folder, pattern) in places.items():
        files = (file for file in folder.glob(pattern) if file.is_file() and 400 < file.stat().st_size < 100_000)
        ordered = sorted(files, key=lambda file: hashlib.sha256(str(file.relative_to(folder)).encode()).digest())
        found[kind] = [file.read_text("utf-8", "replace") for file in ordered[:num_files]]
    return found


def web_texts() -> list[str]:
    """Main contents of at least 50 characters."""
    with gzip.open(DATA / "web/pages.gold.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = [str(json.loads(line)["main_content"]) for line in lines]
    return [text for text in texts if len(text) >= 50]


def pieces(text: str, chars: int) -> list[str]:
    """A text cut at word starts into pieces of about so many characters; where there are no words, at any character."""
    text = " ".join(text.split())
    found, start = [], 0
    while start + chars <= len(text):
        end = start + chars
        cut = text.rfind(" ", start + chars // 2, end)
        end = cut + 1 if cut > 0 else end
        found.append(text[start:end].strip())
        start = end
    return found
