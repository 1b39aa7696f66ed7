"""Labels of models as codes: the two ways of naming languages, and the tables against datatrove's."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from datatrove.utils._import_utils import ASSETS_PATH

from tasks.language_codes import ISO_639_1, USUAL_MEMBERS, language_code


@pytest.mark.parametrize(
    ("label", "code"),
    [
        ("en", "en"),
        ("eng", "en"),
        ("eng_Latn", "en"),
        ("cmn_Hani", "zh"),
        ("arb_Arab", "ar"),
        ("arz_Arab", "arz"),  # no ISO 639-1 code of its own
        ("yue_Hani", "yue"),
        ("als_Latn", "sq"),  # Tosk Albanian in ISO 639-3 ...
        ("als", "als"),  # ... and Alemannic in Wikipedia's codes, which lid.176 has
        ("nob_Latn", "nb"),
        ("srp_Cyrl", "sr"),
        ("zxx", "zxx"),
    ],
)
def test_a_label_becomes_the_code_of_recipes(label: str, code: str) -> None:
    assert language_code(label) == code


def test_every_code_is_there_once_and_no_member_is_its_own_macrolanguage() -> None:
    assert len(ISO_639_1) == len(set(ISO_639_1.values())) == 183  # all that ISO 639-1 has
    assert set(USUAL_MEMBERS.values()) <= set(ISO_639_1.values())
    assert not set(USUAL_MEMBERS) & set(ISO_639_1)


def test_the_tables_agree_with_datatroves() -> None:
    with Path(ASSETS_PATH, "tokenizer_assignment.csv").open(encoding="utf-8") as file:
        theirs = {row["code_3"]: row["code_1"] for row in csv.DictReader(file) if row["code_1"]}
    ours = {code: short for code, short in {**ISO_639_1, **USUAL_MEMBERS}.items() if code in theirs}
    assert len(ours) > 180
    different = {code: (short, theirs[code]) for code, short in ours.items() if theirs[code] != short}
    assert different == {}
