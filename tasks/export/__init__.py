"""A trained model for other people's programs: a folder that Hugging Face's transformers load, proven to be the model.

    layout.py            the network in Hugging Face's words
    weights.py           safetensors under their names, a part at a time
    tokenizer_files.py   the tokenizer as AutoTokenizer takes it
    passages.py          texts that tokenizers and their wrappers get wrong
    proof.py             both compute on the same texts, and everything they say is compared
    card.py              the README of an export
    export.py            all of it, into a folder that appears whole or not at all

transformers is imported by the proof alone, and needed for an export alone: `tokenmill[export]`.
"""
