"""English words and sentences of a document, computed once for all the rules that ask for them.

datatrove's filters take a `WordTokenizer` in place of a language. `SharedWords` is one: it gives the words that
datatrove's own English tokenizer (a blank spaCy pipeline, nothing is downloaded) would give, but

- remembers them for the last few texts, so that one document is tokenised once for all rule families;
- leaves out the sentence splitting that datatrove's tokenizer does, and throws away, whenever it is asked for words;
- keeps spaCy's caches from document to document, which halves the time; datatrove empties them after each text because
  they grow without limit, here the pipeline is made anew when they reach `MAX_LEXEMES`;
- reads every 100th character of an endless run as a space: spaCy's time is quadratic in a run (10,000 times "#": 10 s);
- reads a lone surrogate, which spaCy cannot encode, as U+FFFD.

The first three change no word, but for one: the word IS_ALPHA, on which emptying the caches makes spaCy fail, and which
datatrove then leaves out, from its second appearance in a process on. Here it is a word each time. The last two matter
only where datatrove's tokenizer would not return, or would raise.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from datatrove.utils.typeshelper import Languages
from datatrove.utils.word_tokenizers import WordTokenizer, strip_strings

MAX_LEXEMES = 150_000  # words in spaCy's vocabulary before it is made anew: about 80 MB, several thousand pages
MAX_MEMO_CHARS = 2_000_000
MAX_MEMO_TEXTS = 4
MAX_RUN_CHARS = 1000  # what a run without white space may have before it is cut; the longest URLs pass

_LONG_RUN = re.compile(rf"(?<!\S)\S{{{MAX_RUN_CHARS + 1},}}")
_EVERY_100TH = re.compile(r"(\S{99})\S")
_SURROGATE = re.compile("[\ud800-\udfff]")


def readable(text: str) -> str:
    """The text as it can be tokenised, of the same length: without lone surrogates and endless runs."""
    cleaned = _SURROGATE.sub("\ufffd", text)
    return _LONG_RUN.sub(lambda run: _EVERY_100TH.sub(r"\1 ", run.group()), cleaned)


class SharedWords(WordTokenizer):  # type: ignore[misc]
    """datatrove's English tokenizer with a memory of the last few documents. One instance serves a process."""

    def __init__(self) -> None:
        super().__init__(Languages.english)
        self._words: OrderedDict[str, list[str]] = OrderedDict()
        self._made_pipeline: Any = None

    def word_tokenize(self, text: str) -> list[str]:
        """The words of the text; the list is shared, do not change it."""
        words = self._words.get(text)
        if words is None:
            tokens = self._pipeline().tokenizer(readable(text))
            words = self._words[text] = strip_strings([token.text for token in tokens])
            while len(self._words) > 1 and (
                len(self._words) > MAX_MEMO_TEXTS or sum(map(len, self._words)) > MAX_MEMO_CHARS
            ):
                self._words.popitem(last=False)
        self._words.move_to_end(text)
        return words

    def sent_tokenize(self, text: str) -> list[str]:
        sentences: list[str] = strip_strings([text[start:end] for start, end in self.span_tokenize(text)])
        return sentences

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Start and end of each sentence, in characters."""
        pipeline = self._pipeline()
        pipeline.max_length = len(text) + 1  # the limit is meant for a parser's memory; there is none here
        return [(sentence.start_char, sentence.end_char) for sentence in pipeline(readable(text)).sents]

    def _pipeline(self) -> Any:
        if self._made_pipeline is None or len(self._made_pipeline.vocab) > MAX_LEXEMES:
            import spacy

            self._made_pipeline = spacy.blank("en")
            self._made_pipeline.add_pipe("sentencizer")
        return self._made_pipeline


SHARED_WORDS = SharedWords()


class EnoughWords(WordTokenizer):  # type: ignore[misc]
    """Words for a rule that only counts them, and that more words than `suffices(text, num_words)` cannot change.

    Splitting at white space is far cheaper than spaCy and gives no more words than spaCy does: spaCy loses no
    character, and none of its English rules makes one token across white space. So where the split already gives enough
    words it decides as spaCy's words would; everywhere else the true words are given.
    """

    def __init__(self, suffices: Callable[[str, int], bool]) -> None:
        super().__init__(Languages.english)
        self._suffices = suffices

    def word_tokenize(self, text: str) -> list[str]:
        chunks = text.split()
        if chunks and self._suffices(text, len(chunks)):
            return chunks
        return SHARED_WORDS.word_tokenize(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return SHARED_WORDS.sent_tokenize(text)

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return SHARED_WORDS.span_tokenize(text)


class EnoughSentences(WordTokenizer):  # type: ignore[misc]
    """Sentences for a rule that counts them over the lines of one document and stops caring at `enough`.

    Once it has given that many, each further line is one sentence unread: every line counts as one at least. It answers
    for one document only, since its answers depend on what it was asked before.
    """

    def __init__(self, enough: int) -> None:
        super().__init__(Languages.english)
        self._missing = enough

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        if self._missing <= 0:
            return [(0, len(text))]
        spans = SHARED_WORDS.span_tokenize(text)
        self._missing -= max(1, len(spans))
        return spans

    def word_tokenize(self, text: str) -> list[str]:
        return SHARED_WORDS.word_tokenize(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return SHARED_WORDS.sent_tokenize(text)
