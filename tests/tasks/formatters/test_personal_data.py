"""Personal data: e-mail and IP addresses as datatrove masks them, telephone numbers, and no datum in the edits."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from datatrove.pipeline.formatters import PIIFormatter
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.document import Document, Edit, Keep, Rewrite
from tasks.formatters.edits import HIDDEN, apply_edits
from tasks.formatters.personal_data import EMAILS, IPV4_ADDRESSES, IPV6_ADDRESSES, PHONE_NUMBERS, PersonalData

ADDRESSES = PersonalData(mask_phones=False)


def text_of(rule: PersonalData, text: str) -> str:
    decision = rule.build()(Document("x", text, "test"))
    if isinstance(decision, Rewrite):
        assert apply_edits(text, decision.edits) == decision.text
        return decision.text
    return text


def test_edits_hide_what_they_mask(document: Callable[[str], Document]) -> None:
    decision = PersonalData().build()(document("Mail jo@boats.org or ask 8.8.8.8, tel. 030 23125012."))
    expected = (
        Edit("masked", "email", 5, HIDDEN * 12, "email@example.com"),
        Edit("masked", "ip_address", 25, HIDDEN * 7, "22.214.171.124"),
        Edit("masked", "phone", 39, HIDDEN * 12, "+1 202-555-0114"),
    )
    assert decision == Rewrite("Mail email@example.com or ask 22.214.171.124, tel. +1 202-555-0114.", expected)


def test_hidden_edits_still_have_to_fit() -> None:
    text = "ask jo@boats.org"
    assert apply_edits(text, [Edit("masked", "email", 4, HIDDEN * 12, "x")]) == "ask x"
    for removed in (HIDDEN * 13, "x" + HIDDEN * 11):
        with pytest.raises(ValueError, match="does not fit the text"):
            apply_edits(text, [Edit("masked", "email", 4, removed, "x")])


def test_replacements_go_round_within_a_document() -> None:
    decide = ADDRESSES.build()
    for _ in range(2):  # the second document begins anew
        decision = decide(Document("x", "a@b.org c@d.org e@f.org", "test"))
        assert isinstance(decision, Rewrite)
        assert decision.text == "email@example.com firstname.lastname@example.org email@example.com"


def test_what_a_rule_masks_it_hides() -> None:
    text = "jo@boats.org, 8.8.8.8, +49 30 23125012"
    assert PersonalData().hide(text) == f"{HIDDEN * 12}, {HIDDEN * 7}, {HIDDEN * 15}"
    assert PersonalData(mask_emails=False, mask_phones=False).hide(text) == text.replace("8.8.8.8", HIDDEN * 7)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("8.8.8.8", True),
        ("10.0.0.1 and 192.168.1.1 and 127.0.0.1", False),
        ("256.8.8.8", False),
        ("8.8.8.8.8", False),
        ("v8.8.8.8", False),
        ("version 8.8.8.8", False),
        ("see Section\n7.8.2.1", False),
        ("https://8.8.8.8/", True),
        ("2606:4700:4700::1111", True),
        ("[2a00:1450:4001:81b::200e]:443", True),
        ("2001:db8::7", False),
        ("fe80::1", False),
        ("std::dec::2", False),
        ("2024:10:20", False),
    ],
)
def test_ip_addresses(text: str, masked: bool) -> None:
    assert (text_of(ADDRESSES, text) != text) == masked


@pytest.mark.parametrize("option", ["mask_emails", "mask_ips", "mask_phones"])
def test_each_kind_can_be_left(option: str) -> None:
    text = {"mask_emails": "jo@boats.org", "mask_ips": "8.8.8.8", "mask_phones": "(202) 555-0143"}[option]
    assert text_of(PersonalData(), text) != text
    assert text_of(PersonalData(**{option: False}), text) == text


@settings(max_examples=1500)
@given(st.text(st.sampled_from("ab.-@é [1].2!_:\n"), max_size=25))
def test_emails_are_those_of_datatrove(text: str) -> None:
    rule = PersonalData(mask_ips=False, mask_phones=False)
    assert text_of(rule, text) == PIIFormatter(remove_ips=False).format(text)


def test_real_pages(page_texts: list[str]) -> None:
    """All but what the module names: a number joined to the four, and section numbers."""
    different = [text for text in page_texts if text_of(ADDRESSES, text) != PIIFormatter().format(text)]
    assert sum(text_of(ADDRESSES, text) != text for text in page_texts) > 10
    assert len(different) == 2
    assert any("Section\u00a07.8.2.1" in text for text in different)
    assert any("1283.0.0.0" in text or "83.0.0.0" in text for text in different)


PIECES = (
    *("jo@boats.org", "8.8.8.8", "2606:4700::1", "(202) 555-0143", "+49 30 1234567", "030 23125012", "5550003577"),
    *("section", "version", "x", "1", "tel.", "Phone:", *EMAILS, *IPV4_ADDRESSES, *IPV6_ADDRESSES, *PHONE_NUMBERS),
)


@settings(max_examples=500)
@given(st.lists(st.sampled_from(PIECES)), st.sampled_from([", ", "\n", " and "]))
def test_twice_is_once(pieces: list[str], between: str) -> None:
    once = text_of(PersonalData(), between.join(pieces))
    assert PersonalData().build()(Document("x", once, "test")) == Keep()


def test_what_is_a_replacement_stays_and_counts_for_nothing() -> None:
    assert text_of(PersonalData(), f"{EMAILS[1]}, jo@boats.org") == f"{EMAILS[1]}, {EMAILS[0]}"
    text = ", ".join((*EMAILS, *IPV4_ADDRESSES, *IPV6_ADDRESSES, *PHONE_NUMBERS))
    assert text_of(PersonalData(), text) == PersonalData().hide(text) == text


def test_a_number_beside_another_datum_is_still_a_telephone_number() -> None:
    assert text_of(PersonalData(), "+49 30 1234567 8.8.8.8") == f"{PHONE_NUMBERS[0]} {IPV4_ADDRESSES[0]}"
    assert text_of(PersonalData(), "030 23125012\n030 23125013") == "\n".join(PHONE_NUMBERS)


@pytest.mark.parametrize("piece", ["a-", "a.", "a@", "a.a@", "@a-", "jo@boats.org ", "1.", "8.8.8.8 ", "2001:", "@["])
def test_long_texts_are_done_in_seconds(piece: str) -> None:
    text = piece * (300_000 // len(piece))
    start = time.process_time()
    text_of(PersonalData(), text)
    text_of(PersonalData(), f"@{text}@")
    assert time.process_time() - start < 20, "measured: at most 3 s"
