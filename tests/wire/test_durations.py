"""Spans of time as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo.wire.durations import EXAMPLES, parse_duration

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("200ms", 0.2),
        ("30s", 30),
        ("5m", 300),
        ("1h", 3600),
        ("7d", 604_800),
        ("1.5h", 5400),
        ("0.25s", 0.25),
        ("12", 12),
        ("0", 0),
        ("0ms", 0),
        (" 5 m ", 300),
        ("007s", 7),
        ("999999999d", 999_999_999 * 86_400),
    ],
)
def test_spans_of_time(text: str, seconds: float) -> None:
    """A number and a unit; a bare number is seconds; blanks do not matter."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "s", "ms", "-5s", "+5s", "5 minutes", "5min", "5M", "5S", "1e3", "1,5s", "1.s", ".5s",
        "1.2.3s", "5m30s", "5s5", "inf", "nan", "infs", "0x10", "1_000", "1000000000", "0.1234567s",
        "\u0663s", "\uff13s", "5\x00s",
        "5 s s", "five",
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    """The message shows the text and what to write."""
    with pytest.raises(ValueError, match="is not a span of time") as caught:
        parse_duration(text)
    assert EXAMPLES in str(caught.value)
    assert repr(text) in str(caught.value)


def test_a_long_text_is_shown_cut() -> None:
    """A message stays readable, whatever was pasted."""
    with pytest.raises(ValueError, match="is not a span of time") as caught:
        parse_duration("9" * 100_000)
    assert len(str(caught.value)) < 200


@given(
    number=st.integers(0, 999_999_999), unit=st.sampled_from(sorted(UNITS)), blank=st.sampled_from(["", " "])
)
def test_whole_numbers_of_every_unit(number: int, unit: str, blank: str) -> None:
    """Number times unit, exactly or as near as a float comes."""
    assert parse_duration(f"{number}{blank}{unit}") == pytest.approx(number * UNITS[unit])


@given(text=st.text(max_size=20))
def test_any_text_is_a_span_of_time_or_is_refused(text: str) -> None:
    """Nothing but ValueError is raised, and what is taken is never negative."""
    try:
        assert parse_duration(text) >= 0
    except ValueError as error:
        assert "is not a span of time" in str(error)
