"""Base ids and dates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.read.identity import from_content, from_damage, from_record_id, iso_date, parse_date


def test_cases_do_not_collide() -> None:
    ids = [
        from_record_id("a"),
        from_content("a"),
        from_damage("a"),
        from_content("a", "u", "d"),
        from_content("d", "a", "u"),
    ]
    assert len(set(ids)) == len(ids)
    assert all(len(base_id) == 32 and int(base_id, 16) >= 0 for base_id in ids)


def test_angle_brackets_do_not_count() -> None:
    assert from_record_id(" <urn:uuid:1> ") == from_record_id("urn:uuid:1")


def test_url_and_date_count_only_together() -> None:
    assert from_content("p", url="u") == from_content("p", date="d") == from_content("p")
    assert from_content("p", "u", "d") != from_content("p")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-01T12:00:00Z", "2024-05-01T12:00:00Z"),
        ("2024-05-01T12:00:00.987Z", "2024-05-01T12:00:00Z"),
        ("2024-05-01T12:00:00+02:00", "2024-05-01T10:00:00Z"),
        ("2024-05-01 12:00:00", "2024-05-01T12:00:00Z"),
        ("2024-05-01", "2024-05-01T00:00:00Z"),
        ("20240501120000", "2024-05-01T12:00:00Z"),
        ("201404010000000000", "2014-04-01T00:00:00Z"),
        ("0001-01-01T00:00:00+10:00", ""),
        ("2024-13-01", ""),
        ("yesterday", ""),
        ("", ""),
    ],
)
def test_parse_date(text: str, expected: str) -> None:
    assert parse_date(text) == expected


@given(st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)), st.integers(-14, 14))
def test_dates_survive_a_round_trip(moment: datetime, hours: int) -> None:
    text = iso_date(moment.replace(tzinfo=timezone(timedelta(hours=hours))))
    assert parse_date(text) == text
    assert datetime.fromisoformat(text) == (moment - timedelta(hours=hours)).replace(microsecond=0, tzinfo=UTC)
