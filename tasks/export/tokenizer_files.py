"""The tokenizer as `AutoTokenizer` loads it: the same ids as ours, after the token that every text begins with.

The network has seen an end-of-text before every document, and `TextGenerator` and the evaluation place one before
every text. Who loads an export gets it from the tokenizer, as from Llama's: it is `bos_token`, and the post-processor
in `tokenizer.json` places it; `add_special_tokens=False` leaves it out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from tasks.atomic import write_file, write_json
from tasks.tokenizer import END_OF_TEXT, END_OF_TEXT_ID, PAD, TOKENIZER_FILE, UNKNOWN, load_tokenizer

CONFIGURATION_FILE = "tokenizer_config.json"


def write_tokenizer(tokenizer_file: Path, destination: Path, *, max_seq_len: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` to the existing folder `destination`.

    Raises ValueError where the file is no tokenizer of ours.
    """
    tokenizer = load_tokenizer(tokenizer_file)
    begin = f"{END_OF_TEXT}:0"
    tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A:0",
        pair=f"{begin} $A:0 {END_OF_TEXT}:1 $B:1",
        special_tokens=[(END_OF_TEXT, END_OF_TEXT_ID)],
    )
    write_file(destination / TOKENIZER_FILE, tokenizer.to_str(pretty=True).encode("utf-8"))
    write_json(destination / CONFIGURATION_FILE, _configuration(max_seq_len))


def _configuration(max_seq_len: int) -> dict[str, Any]:
    return {
        # loads `tokenizer.json` as it is, in transformers 4 and 5
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        # transformers goes by the post-processor; llama.cpp and vLLM read it here
        "add_bos_token": True,
        "add_eos_token": False,
        # a text that spells out a special token is those characters, as in training
        "split_special_tokens": True,
        # else transformers would take out spaces before punctuation in decoding
        "clean_up_tokenization_spaces": False,
        # prompts of unequal length end together, where generation begins
        "padding_side": "left",
        "model_max_length": max_seq_len,
    }


def exported_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """What the exported tokenizer has to make of a text, by our own tokenizer."""
    return [END_OF_TEXT_ID, *tokenizer.encode(text).ids]
