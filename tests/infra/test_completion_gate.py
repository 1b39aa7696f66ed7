"""Which addresses may be served, and which keys ask for them."""

from __future__ import annotations

import pytest

from infra.completion_gate import check_address, checked_key

KEY = "of-this-test-012"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.9.1"])
def test_loopback_needs_nothing(host: str) -> None:
    check_address(host, allow_remote=False, api_key=None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_what_others_can_reach_must_be_meant_and_needs_a_key(host: str) -> None:
    for key in (None, KEY):
        with pytest.raises(ValueError, match="others can reach this address; say --allow-remote"):
            check_address(host, allow_remote=False, api_key=key)
    with pytest.raises(ValueError, match="others can reach this address; set TOKENMILL_API_KEY"):
        check_address(host, allow_remote=True, api_key=None)
    check_address(host, allow_remote=True, api_key=KEY)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a" * 300, "1.2.3.4.5", "\x00", ""])
def test_what_is_no_address_is_said_to_be_none(host: str) -> None:
    with pytest.raises(ValueError, match="there is no such address"):
        check_address(host, allow_remote=True, api_key=KEY)


def test_a_key_is_long_enough_and_fits_a_header() -> None:
    assert (checked_key(None), checked_key(""), checked_key(KEY)) == (None, None, KEY)
    for wrong in (KEY[:-1], KEY + "ü", KEY + " x", KEY + "\n"):
        with pytest.raises(ValueError, match="TOKENMILL_API_KEY must be at least 16") as refused:
            checked_key(wrong)
        assert wrong.strip() not in str(refused.value)
