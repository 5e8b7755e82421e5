"""The ``defaults`` of streams.yaml: how handlers try, and how long is kept what is over."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import yaml

from choreo.errors import ContractError
from choreo.model.policy import OnFailure, Policy, Retry
from choreo.wire.durations import EXAMPLES, parse_duration
from choreo.wire.nodes import Entry, Reader, is_a

_RETRY: dict[str, str] = {
    "attempts": "count", "first": "duration", "factor": "number", "limit": "duration", "jitter": "number",
}  # fmt: skip


class Defaults(NamedTuple):
    """What ``defaults`` says."""

    policy: Policy
    keep: float
    """Seconds for which is kept what is over."""


def read_defaults(reader: Reader, node: yaml.Node, base: Defaults) -> Defaults:
    """What ``defaults`` says; what it leaves open is as in ``base``. Faults go to ``reader``."""
    entries = reader.mapping(node, "`defaults`", "defaults: {timeout: 30s, retry: {attempts: 5}}")
    reader.known(entries, ("timeout", "retry", "on_failure", "keep"), "`defaults`")
    retry = base.policy.retry
    if "retry" in entries:
        retry = _read_retry(reader, entries["retry"].value) or retry
    timeout = read_duration(reader, entries.get("timeout"), "`timeout`")
    on_failure = _value(reader, entries.get("on_failure"), "`on_failure`", "choice")
    keep = read_duration(reader, entries.get("keep"), "`keep`")
    return Defaults(Policy(retry, timeout, on_failure).over(base.policy), keep or base.keep)


def _read_retry(reader: Reader, node: yaml.Node) -> Retry | None:
    entries = reader.mapping(node, "`retry`", "retry: {attempts: 5, first: 200ms, factor: 2, limit: 30s}")
    reader.known(entries, _RETRY, "`retry`")
    values = {name: _value(reader, entries.get(name), f"`{name}`", kind) for name, kind in _RETRY.items()}
    given: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    try:
        return Retry(**given)
    except ContractError as error:
        reader.fault(node, str(error))
        return None


def read_duration(reader: Reader, entry: Entry | None, label: str) -> float | None:
    """Seconds, more than none; or ``None``, with a fault that calls it ``label`` if there is an entry."""
    seconds: float | None = _value(reader, entry, label, "duration")
    if entry is not None and seconds is not None and seconds <= 0:
        reader.fault(entry.value, f"{label} must be longer than nothing")
        return None
    return seconds


def _value(reader: Reader, entry: Entry | None, label: str, kind: str) -> Any:
    if entry is None:
        return None
    node = entry.value
    read, example = _KINDS[kind]
    if isinstance(node, yaml.ScalarNode) and not is_a(node, "null"):
        try:
            return read(str(node.value))
        except ValueError:
            pass
    reader.fault(node, f"{label} must be {example}")
    return None


def _count(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,3}", text):
        raise ValueError(text)
    return int(text)


def _choice(text: str) -> str:
    if text not in get_args(OnFailure):
        raise ValueError(text)
    return text


def _number(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text):
        raise ValueError(text)
    return float(text)


_KINDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "duration": (parse_duration, f"a span of time: {EXAMPLES}"),
    "count": (_count, "a whole number from 1 to 9999"),
    "choice": (_choice, "`abort` or `park`"),
    "number": (_number, "a number that is not negative, such as 2 or 0.5"),
}
