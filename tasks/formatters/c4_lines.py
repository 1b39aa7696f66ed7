"""C4's line rules: takes away menu entries, cookie notices and citation marks, and drops what is no page of sentences.

Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer"
(JMLR 21, 20-074), section 2.2, and its published code. As FineWeb does, and other than C4, a line without terminal
punctuation stays by default. Decisions and the new text are those of datatrove's `C4QualityFilter` working on lines.

Every change is recorded: removed lines, citation marks cut out of kept lines, white space stripped from both ends of a
line, and line ends other than a plain line feed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from datatrove.data import Document as DatatroveDocument
from datatrove.pipeline.filters.c4_filters import CITATION_REGEX, C4QualityFilter
from pydantic import Field

from tasks.document import Decision, Document, Drop, Edit, Keep, Rewrite
from tasks.filters.words import SHARED_WORDS, EnoughSentences
from tasks.formatters.edits import apply_edits
from tasks.rule import Rule

MAX_DETAIL_CHARS = 200


class _LineFates(C4QualityFilter):  # type: ignore[misc]
    """datatrove's filter, which tells what it did with each line: it counts a label per line, here kept as a list."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.fates: list[str] = []

    def stat_update(self, *labels: str, value: int = 1, unit: str | None = None) -> None:
        self.fates.extend(label for label in labels if label != "line-total")


@dataclass(frozen=True)
class _Span:
    """A stretch of the original text and what the new text has in its place."""

    before: str
    after: str
    reason: str
    kind: Literal["line_removed", "span_removed", "replaced"]


class C4Lines(Rule):
    """Removes lines that are not text, and drops pages with too few sentences, filler text or source code.

    Reasons of a Drop: empty (also where no line is left), too_few_sentences, lorem_ipsum, curly_bracket. Reasons of an
    edit: c4_too_long_word, c4_no_terminal_punc, c4_too_few_words, c4_javascript, c4_policy (lines removed);
    c4_citation, c4_white_space (spans removed), c4_line_end (replaced).
    """

    kind: Literal["c4_lines"] = "c4_lines"
    libraries: ClassVar[tuple[str, ...]] = ("datatrove", "spacy")

    filter_no_terminal_punct: bool = Field(
        False, description="Remove lines that do not end with . ? ! or a quotation mark (C4 does, FineWeb does not)."
    )
    min_sentences: int = Field(5, ge=1, description="Sentences in the lines that stay, at least (C4).")
    min_words_per_line: int = Field(3, ge=0, description="Remove lines with fewer words between white space (C4).")
    max_word_chars: int = Field(1000, ge=1, description="Remove lines with a longer word (C4's code).")
    remove_citations: bool = Field(True, description="Cut out [1], [edit] and [citation needed] (C4's code).")
    filter_javascript: bool = Field(True, description="Remove lines that mention JavaScript (C4).")
    filter_policy: bool = Field(True, description="Remove lines that mention cookies or terms of use (C4's code).")
    filter_lorem_ipsum: bool = Field(True, description='Drop pages with "lorem ipsum" (C4).')
    filter_curly_bracket: bool = Field(True, description="Drop pages with a curly bracket: source code (C4).")

    def build(self) -> Callable[[Document], Decision]:
        oracle = _LineFates(
            filter_no_terminal_punct=self.filter_no_terminal_punct,
            min_num_sentences=self.min_sentences,
            min_words_per_line=self.min_words_per_line,
            max_word_length=self.max_word_chars,
            remove_citations=self.remove_citations,
            filter_javascript=self.filter_javascript,
            filter_policy=self.filter_policy,
            filter_lorem_ipsum=self.filter_lorem_ipsum,
            filter_curly_bracket=self.filter_curly_bracket,
        )

        def decide(document: Document) -> Decision:
            text = document.text
            if not text.strip():
                return Drop("empty")
            oracle.fates = []
            oracle.language = EnoughSentences(self.min_sentences)
            copied = DatatroveDocument(text=text, id=document.document_id)
            result = oracle.filter(copied)
            lines = text.splitlines(keepends=True)
            if isinstance(result, tuple):
                return self._explain(result[1], lines, oracle.fates)
            if not copied.text:
                return Drop("empty")
            edits = tuple(_edits(_without_outer_space(list(self._spans(lines, oracle.fates)))))
            assert apply_edits(text, edits) == copied.text, (
                f"the edits do not lead to C4's text of {document.document_id}"
            )
            return Rewrite(copied.text, edits) if edits else Keep()

        return decide

    def _explain(self, reason: str, lines: list[str], fates: list[str]) -> Drop:
        if reason != "too_few_sentences":
            # the line that made datatrove stop is the first one without a fate
            return Drop(reason, detail=lines[len(fates)].strip()[:MAX_DETAIL_CHARS])
        kept = [
            self._without_citations(line.strip()) for line, fate in zip(lines, fates, strict=True) if _is_kept(fate)
        ]
        num_sentences = sum(max(1, len(SHARED_WORDS.span_tokenize(line))) for line in kept)
        return Drop(reason, num_sentences, self.min_sentences)

    def _without_citations(self, line: str) -> str:
        return CITATION_REGEX.sub("", line) if self.remove_citations else line

    def _spans(self, lines: list[str], fates: list[str]) -> Iterator[_Span]:
        """The whole text as spans, each kept line followed by a plain line feed."""
        for line, fate in zip(lines, fates, strict=True):
            if not _is_kept(fate):
                yield _Span(line, "", fate.replace("line-filter-", "c4_"), "line_removed")
                continue
            content = line.splitlines()[0]
            stripped = content.strip()
            leading = content[: len(content) - len(content.lstrip())]
            trailing = content[len(leading) + len(stripped) :]
            yield _Span(leading, "", "c4_white_space", "span_removed")
            position = 0
            for citation in CITATION_REGEX.finditer(stripped) if self.remove_citations else ():
                yield _Span(
                    stripped[position : citation.start()], stripped[position : citation.start()], "", "replaced"
                )
                yield _Span(citation.group(), "", "c4_citation", "span_removed")
                position = citation.end()
            yield _Span(stripped[position:], stripped[position:], "", "replaced")
            yield _Span(trailing, "", "c4_white_space", "span_removed")
            line_end = line[len(content) :]
            yield _Span(line_end, "\n" if line_end else "", "c4_line_end", "replaced")


def _is_kept(fate: str) -> bool:
    return fate == "line-kept"


def _without_outer_space(spans: list[_Span]) -> list[_Span]:
    """The spans with white space taken from the start and the end of the new text, as datatrove does last."""
    return _stripped(_stripped(spans, from_end=False), from_end=True)


def _stripped(spans: list[_Span], *, from_end: bool) -> list[_Span]:
    todo, done = list(spans), []
    while todo:
        span = todo.pop(-1 if from_end else 0)
        rest = span.after.rstrip() if from_end else span.after.lstrip()
        if not rest:
            removed = _Span(span.before, "", "c4_white_space", "span_removed") if span.after else span
            done.append(removed)
            continue
        if rest != span.after:  # a kept stretch: what stays of it, and the white space beside it
            space = span.after[len(rest) :] if from_end else span.after[: len(span.after) - len(rest)]
            done.append(_Span(space, "", "c4_white_space", "span_removed"))
        todo.insert(len(todo) if from_end else 0, _Span(rest, rest, "", "replaced"))
        break
    return todo + done[::-1] if from_end else done + todo


def _edits(spans: list[_Span]) -> Iterator[Edit]:
    start = 0
    for span in spans:
        if span.before != span.after:
            yield Edit(span.kind, span.reason, start, span.before, span.after)
        start += len(span.before)
