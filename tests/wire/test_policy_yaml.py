"""The `defaults` of streams.yaml: what holds for handlers that do not say otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo.errors import ConfigurationError, Fault
from choreo.model.policy import Policy, Retry
from choreo.wire.streams_yaml import parse
from choreo.wire.topology import DEFAULT_POLICY

HEAD = "namespace: shop\nstreams:\n  orders: {events: [A]}\n"
#: The line in which `defaults:` stands.
LINE = 4


def defaults(text: str) -> Policy:
    """The policy of a file with these `defaults`."""
    return parse(f"{HEAD}defaults: {text}\n").defaults


def faults(text: str) -> list[Fault]:
    """The faults of a file with these `defaults`; the test fails if there are none."""
    with pytest.raises(ConfigurationError) as caught:
        parse(f"{HEAD}defaults: {text}\n", Path("streams.yaml"))
    return caught.value.faults


def the_fault(text: str, line: int = LINE) -> str:
    """The one fault of a file, which is in ``line``."""
    found = faults(text)
    assert len(found) == 1, found
    assert found[0].where == f"streams.yaml:{line}"
    return found[0].what


def test_without_the_section_handlers_try_five_times_without_a_timeout() -> None:
    """What holds where nobody says anything."""
    assert parse(HEAD).defaults == DEFAULT_POLICY == Policy(Retry(), None)


def test_everything_can_be_said() -> None:
    """Every part of the section ends up in the policy."""
    told = defaults("""
      timeout: 10s
      retry: {attempts: 7, first: 200ms, factor: 1.5, limit: 5m, jitter: 0.25}""")
    assert told == Policy(Retry(attempts=7, first=0.2, factor=1.5, limit=300.0, jitter=0.25), 10.0)


def test_everything_can_be_left_out() -> None:
    """What is not said is as without the section."""
    assert defaults("{}") == DEFAULT_POLICY
    assert defaults("{timeout: 1m}") == Policy(Retry(), 60.0)
    assert defaults("{retry: {}}") == DEFAULT_POLICY
    assert defaults("{retry: {attempts: 1}}") == Policy(Retry(attempts=1))
    assert defaults("{retry: {first: 0s}}") == Policy(Retry(first=0.0))


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("200ms", 0.2),
        ("30s", 30),
        ("5m", 300),
        ("1h", 3600),
        ("7d", 604_800),
        ("2", 2),
        ("0.5", 0.5),
        ('"2s"', 2),
    ],
)
def test_durations(written: str, seconds: float) -> None:
    """With units, or bare numbers of seconds."""
    assert defaults(f"{{timeout: {written}}}").timeout == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written", ["fast", "-5s", "[5s]", "{a: b}", "~", '""', "5 minutes", ".inf", ".nan", "yes"]
)
def test_a_timeout_that_is_no_duration(written: str) -> None:
    """The fault says what would be right."""
    assert the_fault(f"{{timeout: {written}}}") == (
        "`timeout` must be a span of time: 200ms, 30s, 5m, 1h or 7d"
    )


@pytest.mark.parametrize("written", ["0", "0s", "0.0", "0ms"])
def test_a_timeout_of_nothing(written: str) -> None:
    """No attempt could ever succeed."""
    assert the_fault(f"{{timeout: {written}}}") == "`timeout` must be longer than nothing"


@pytest.mark.parametrize("written", ["0", "-1", "2.5", "many", "10000", "~", "[3]", "1e3", "yes", "0x10"])
def test_attempts_that_are_no_count(written: str) -> None:
    """Attempts are a whole number."""
    assert the_fault(f"{{retry: {{attempts: {written}}}}}") == (
        "`attempts` must be a whole number from 1 to 9999"
    )


@pytest.mark.parametrize("name", ["factor", "jitter"])
@pytest.mark.parametrize("written", ["-1", "x", ".inf", ".nan", "1e3", "~", "[]", "1000000000"])
def test_factor_and_jitter_that_are_no_numbers(name: str, written: str) -> None:
    """Both are plain numbers."""
    assert the_fault(f"{{retry: {{{name}: {written}}}}}") == (
        f"`{name}` must be a number that is not negative, such as 2 or 0.5"
    )


@pytest.mark.parametrize("name", ["first", "limit"])
@pytest.mark.parametrize("written", ["soon", "-1s", "~"])
def test_first_and_limit_that_are_no_durations(name: str, written: str) -> None:
    """Both are durations."""
    assert the_fault(f"{{retry: {{{name}: {written}}}}}") == (
        f"`{name}` must be a span of time: 200ms, 30s, 5m, 1h or 7d"
    )


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("{jitter: 1.5}", "jitter is 1.5; between 0 and 1"),
        ("{factor: 0.5}", "factor is 0.5; at least 1"),
        ("{first: 10s, limit: 5s}", "limit is 5.0; at least first, 10.0, and at most a year"),
        ("{first: 1m}", "limit is 30.0; at least first, 60.0, and at most a year"),
        ("{factor: 0, jitter: 2}", "factor is 0.0; at least 1; jitter is 2.0; between 0 and 1"),
    ],
)
def test_values_that_make_no_sense_together(written: str, what: str) -> None:
    """What a Retry refuses is a fault of the file, with its line."""
    assert the_fault(f"\n  retry: {written}", LINE + 1) == f"Retry: {what}"


@pytest.mark.parametrize("written", ["5", "[]", "~", "text", '""'])
def test_sections_that_are_no_mappings(written: str) -> None:
    """The fault shows the shape that is right."""
    assert the_fault(written).startswith(
        "`defaults` must be a mapping, `defaults: {timeout: 30s, retry: {attempts: 5}}`; this is"
    )
    assert the_fault(f"{{retry: {written}}}").startswith(
        "`retry` must be a mapping, `retry: {attempts: 5, first: 200ms, factor: 2, limit: 30s}`; this is"
    )


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("{timout: 5s}", "unknown key `timout` in `defaults`; did you mean `timeout`?"),
        ("{retries: 5}", "unknown key `retries` in `defaults`; did you mean `retry`?"),
        ("{lease: 5s}", "unknown key `lease` in `defaults`; known here: timeout, retry, on_failure, keep"),
        ("{retry: {attemps: 5}}", "unknown key `attemps` in `retry`; did you mean `attempts`?"),
        (
            "{retry: {errors: [OSError]}}",
            "unknown key `errors` in `retry`; known here: attempts, first, factor, limit, jitter",
        ),
    ],
)
def test_unknown_keys(written: str, what: str) -> None:
    """A slip of the pen is named, with what was probably meant."""
    assert the_fault(written) == what


def test_a_key_that_is_there_twice() -> None:
    """Neither of the two wins in silence."""
    assert the_fault("{timeout: 5s, timeout: 6s}") == (
        f"`timeout` is in `defaults` already, in line {LINE}; keep one of them"
    )


def test_every_fault_is_named_at_once_with_its_line() -> None:
    """Also when the rest of the file is wrong, and in the order of the lines."""
    found = faults("""
  timeout: soon
  retry:
    attempts: 0
    first: -1s
    factor: much
    jitter: [1]
    limits: 5s
  colour: red
partitions: 0""")
    lines = [int(fault.where.partition(":")[2]) for fault in found]
    keys = [fault.what.split("`")[1] for fault in found]
    assert dict(zip(lines, keys, strict=True)) == {
        5: "timeout", 7: "attempts", 8: "first", 9: "factor", 10: "jitter", 11: "limits", 12: "colour",
        13: "partitions",
    }  # fmt: skip
    assert lines == sorted(lines)


words = st.sampled_from(
    [
        "timeout",
        "retry",
        "attempts",
        "first",
        "5s",
        "0",
        "5",
        "-1",
        "~",
        "x",
        ": ",
        ", ",
        "{",
        "}",
        "[",
        "]",
        "\n  ",
    ]
)


@given(text=st.lists(words, max_size=12).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever stands there, there is a policy or a list of faults; nothing else is raised."""
    try:
        assert defaults(text).retry is not None
    except ConfigurationError as error:
        assert error.faults
