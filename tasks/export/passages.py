"""Texts that every export is compared on, written for this: what tokenizers and their wrappers get wrong.

Each has its reason beside it. They are short; the logits are compared on text of the model's own corpus where it is
there.
"""

from __future__ import annotations

from tasks.tokenizer import SPECIAL_TOKENS

PASSAGES = (
    # prose, where nothing is special
    "The ferry left the old harbour before the morning train arrived. Nobody on the quay had a timetable, and so the "
    "clerk wrote the hours on a piece of board and nailed it to the lantern post.\n\nBy evening three people had "
    "corrected it, each with a pencil of another colour.",
    # code: indentation, tabs, runs of punctuation
    "def mean(values):\n    total = 0.0\n    for value in values:\n\ttotal += value  # a tab, on purpose\n    return "
    'total / len(values) if values else float("nan")\n\n\nassert mean([1, 2, 3]) == 2.0 != -1e-05\n',
    # digits are tokens of their own; other scripts have digits, too
    "In 2031 it had 1,048,576 rows, 3.14159 of them per page: v10.2.33-rc4, ½, ², Ⅷ, ٤٢, 四十二.",
    # leading, trailing and repeated white space; line ends of other systems; spaces that are none of ASCII's
    "  two before,   three inside, one after \r\nnext\rlast\n\n\n \t \u00a0\u2003\u3000 ",
    # a space before punctuation, which `clean_up_tokenization_spaces` would take out
    "Is that so ? Yes , it isn 't ; we 've seen it .",
    # contractions of the word pattern, in both cases, and with a typographic apostrophe
    "I'll say we're sure they'd've gone; I'LL SAY WE'RE SURE. It’s o’clock.",
    # several scripts, combining marks, one written two ways, right to left
    "Žluťoučký kůň; naïve café, cafe\u0301; Привет, мир; 今日は良い天気です; 한국어 문장; "
    "שלום עולם; مرحبا بالعالم; नमस्ते",
    # outside the basic plane: joined, with a modifier, flags; and a private, an unassigned and a zero-width character
    "👩\u200d🔬 wrote 🧪 in 🇨🇭, 👍🏽; 𝔘𝔫𝔦𝔠𝔬𝔡𝔢; \ue000 \U000e0080 \u200b\ufeff",
    # control characters and the replacement character
    "nul \x00, escape \x1b[0m, delete \x7f, next line \x85, replacement \ufffd",
    # a text that spells out the special tokens is these characters
    f"{''.join(SPECIAL_TOKENS)} and {SPECIAL_TOKENS[1]}, written out",
    # a long word without a space
    "a" * 300 + "Ab0" * 50,
    # one space, one character
    " ",
    "x",
)
