"""streams.yaml: what is read from a right one, and what is said about a wrong one."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from choreo.errors import ConfigurationError, Fault
from choreo.model.deadlines import Deadlines, Expectation
from choreo.wire import nodes
from choreo.wire.limits import MAX_PARTITIONS
from choreo.wire.streams_yaml import is_import, load, parse

RIGHT = """\
namespace: shop
partitions: 4
redis: redis://:secret@localhost:6379/0
streams:
  orders:    {events: [OrderPlaced, OrderCancelled]}
  payments:
    events:
      - PaymentCaptured
      - PaymentDeclined
participants:
  payments:  participants.payments:payments
sagas:
  order:
    starts_with: OrderPlaced
    completes_with: [PaymentCaptured]
    aborts_with: [PaymentDeclined]
"""

STREAMS = "namespace: shop\nstreams:\n  orders: {events: [A, B, C, D]}\n"


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs with libyaml's parser and with PyYAML's own."""
    if not hasattr(yaml, request.param):
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(nodes, "_LOADER", getattr(yaml, request.param))


def faults(text: str) -> list[Fault]:
    """The faults of a text; the test fails if there are none."""
    with pytest.raises(ConfigurationError) as caught:
        parse(text, Path("streams.yaml"))
    return caught.value.faults


def the_fault(text: str) -> Fault:
    """The one fault of a text."""
    found = faults(text)
    assert len(found) == 1, found
    return found[0]


def saga(body: str) -> str:
    """A file whose saga `order`, in line 5, has this body from line 6 on."""
    return STREAMS + "sagas:\n  order:\n" + "".join(f"    {line}\n" for line in body.splitlines())


def test_a_right_file_is_read_whole(tmp_path: Path) -> None:
    """Every section of a file ends up in the topology, with the lines where things stand."""
    path = tmp_path / "streams.yaml"
    path.write_text(RIGHT)
    topology = load(path)
    assert topology.namespace == "shop"
    assert topology.partitions == 4
    assert topology.redis == "redis://:secret@localhost:6379/0"
    assert topology.streams == {
        "orders": ("OrderPlaced", "OrderCancelled"),
        "payments": ("PaymentCaptured", "PaymentDeclined"),
        "choreo": ("SagaTimedOut",),
    }
    assert topology.participants == {"payments": "participants.payments:payments"}
    order = topology.sagas["order"]
    assert order.starts_with == {"OrderPlaced"}
    assert order.completes_with == {"PaymentCaptured"}
    assert order.aborts_with == {"PaymentDeclined"}
    assert not order.completes_when_all
    assert order.line == 13
    assert topology.source == path
    assert topology.lines == {
        "stream:orders": 5,
        "event:OrderPlaced": 5,
        "event:OrderCancelled": 5,
        "stream:payments": 6,
        "event:PaymentCaptured": 8,
        "event:PaymentDeclined": 9,
        "participant:payments": 11,
        "saga:order": 13,
    }


def test_a_path_may_be_text_and_the_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """What some editors put before the text does no harm."""
    path = tmp_path / "streams.yaml"
    path.write_text(RIGHT, encoding="utf-8-sig")
    assert load(str(path)).namespace == "shop"


def test_defaults() -> None:
    """Without the optional sections there are 8 partitions, no participants, no sagas, no server."""
    topology = parse(STREAMS)
    assert (topology.partitions, topology.participants, topology.sagas) == (8, {}, {})
    assert topology.redis is None
    assert topology.source is None


def test_a_saga_may_start_in_several_ways_and_complete_with_all() -> None:
    """`starts_with` takes a list, `completes_with` takes `all`, `aborts_with` may be left out."""
    order = parse(saga("starts_with: [A, B]\ncompletes_with: {all: [C, D]}")).sagas["order"]
    assert order.starts_with == {"A", "B"}
    assert order.completes_with == {"C", "D"}
    assert order.completes_when_all
    assert order.aborts_with == frozenset()


def test_every_fault_is_told_at_once_in_the_order_of_lines() -> None:
    """Ten faults need one run, not ten; line 10 comes after line 9."""
    found = faults(
        "namespace: Shop\n"
        "partitions: 0\n"
        "redis: localhost\n"
        "streams:\n"
        "  orders: {evnts: [A]}\n"
        "  'a b': {events: [A]}\n"
        "participants:\n"
        "  x: a.b\n"
        "  y: 3\n"
        "sagas:\n"
        "  order: {starts_with: Z}\n"
        "sages: {}\n"
    )
    assert [fault.where for fault in found] == [
        f"streams.yaml:{line}" for line in (1, 2, 3, 5, 5, 6, 8, 9, 11, 11, 12)
    ]


@pytest.mark.parametrize(
    ("tail", "what"),
    [
        ("partition: 3", "unknown key `partition` in the file; did you mean `partitions`?"),
        ("zzz: 3", "unknown key `zzz` in the file; known here: namespace, partitions"),
        ("namespace: other", "`namespace` is in the file already, in line 1"),
        ("  orders: {events: [E]}", "`orders` is in `streams` already, in line 3"),
        ("  more: {events: [E], events: [F]}", "`events` is in stream `more` already, in line 4"),
        ("  more: [E]", "stream `more` must be a mapping, `{events: [OrderPlaced]}`; this is a list"),
        ("  more:", "stream `more` must be a mapping"),
        ("  more: {}", "stream `more` carries nothing; add `events: [OrderPlaced]`"),
        ("  more: {events: []}", "`events` of stream `more` is empty"),
        ("  more: {events: E}", "must be a list of event types, like `[OrderPlaced]`; this is text"),
        ("  more: {events: [E, E]}", "E is listed twice"),
        ("  more: {events: [Order-Placed]}", "`Order-Placed` is not an event type"),
        ("  more: {events: [class]}", "`class` is not an event type"),
        ("  more: {events: [{E: 1}]}", "an event type in `events` of stream `more` must be text"),
        (f"  more: {{events: [{'E' * 129}]}}", "has 129 characters; at most 128"),
        ("  more: {events: [E, A]}", "A is carried by stream `more` here and by `orders` in line 3"),
        ("  More: {events: [E]}", "stream name `More` must match [a-z0-9]"),
        ("  on: {events: [E]}", "YAML reads `on` as true or false: quote it"),
        ("  more: {events: [E], 7: x}", "YAML reads `7` as a number: quote it"),
        ("  more: {events: &e [E]}", "anchors (&) and aliases (*) are not allowed"),
        ("  more: !!python/object:os.system {events: [E]}", "stream `more` must be a mapping"),
        ("  ? [more]\n  : {events: [E]}", "a key of `streams` must be text; this is a list"),
        ("participants:", "`participants` is empty"),
        ("participants: [a]", "`participants` must be a mapping"),
        ("participants: {Pay: a:b}", "participant name `Pay` must match"),
        ("sagas: {Order: {starts_with: A, completes_with: [B]}}", "saga name `Order` must match"),
        ("sagas: {order: A}", "saga `order` must be a mapping"),
    ],
)
def test_a_fault_in_line_4_says_what_would_be_right(tail: str, what: str) -> None:
    """Each kind of mistake in the sections is the one fault that is told, in its line."""
    fault = the_fault(f"{STREAMS}{tail}\n")
    assert what in fault.what
    assert fault.where in ("streams.yaml:4", "streams.yaml:5" if tail == "  more:" else "")


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("# a shop\nstreams:\n  orders: {events: [A]}", 2, "`namespace` is missing; add it, for example"),
        ("namespace: shop", 1, "`streams` is missing; add it, for example `streams: {orders:"),
        ("namespace: shop\nstreams: {}", 2, "`streams` has no streams; add one"),
        ("- a", 1, "the file must be a mapping, `namespace: shop`; this is a list"),
        ("", 1, "the file is empty"),
        ("# nothing\n", 1, "the file is empty"),
        ("namespace: shop\nstreams: {a", 2, "this is not YAML"),
        ("a: [b\nc: d\ne: f\n", 2, "that begins in line 1"),
        ("a: 1\n\tb: 2\n", 2, "this is not YAML"),
        ("namespace: shop\n---\nnamespace: shop\n", 2, "this is not YAML"),
        ("a: *b\n", 1, "anchors (&) and aliases (*) are not allowed"),
        ("a: 1\nb: \x07\n", 2, "character '\\x07' cannot stand in YAML"),
    ],
)
def test_a_file_that_lacks_the_main_things(text: str, line: int, what: str) -> None:
    """A file that is empty, no mapping or no YAML has that one fault."""
    fault = the_fault(text)
    assert what in fault.what
    assert fault.where == f"streams.yaml:{line}"


@pytest.mark.parametrize(
    ("body", "line", "what"),
    [
        ("completes_with: [B]", 5, "saga `order` has no `starts_with`; add `starts_with: OrderPlaced` or so"),
        ("starts_with: A", 5, "saga `order` has no `completes_with`; add `completes_with: [OrderShipped]`"),
        ("starts_with: A\ncompletes_with: B", 7, "must be a list of event types, like `[OrderPlaced]`"),
        ("starts_with: A\ncompletes_with: []", 7, "`completes_with` of saga `order` is empty"),
        ("starts_with: []\ncompletes_with: [B]", 6, "`starts_with` of saga `order` is empty"),
        ("starts_with: {A: 1}\ncompletes_with: [B]", 6, "a list of event types or one event type"),
        ("starts_with: A\ncompletes_with: {any: [B], all: [B]}", 7, "unknown key `any`"),
        ("starts_with: A\ncompletes_with: {all: B}", 7, "`all` of saga `order` must be a list"),
        ("starts_with: A\ncompletes_with: [Bee]", 7, "no stream carries Bee, which saga `order` names"),
        ("starts_with: A\ncompletes_with: [B]\naborts_with: [E]", 8, "no stream carries E"),
        ("starts_with: A\ncompletes_with: [B]\naborts_with: [B]", 8, "B aborts saga `order` here and"),
        ("starts_with: A\ncompletes_with: [A]", 7, "A starts saga `order`, so it cannot"),
        ("starts_with: A\ncompletes_with: [B]\naborts_with: [A]", 8, "A starts saga `order`, so it cannot"),
        ("starts_with: A\ncompletes_with: [B]\nkeep: long", 8, "`keep` of saga `order` must be a span of time"),
        ("starts_with: A\ncompletes_with: [B]\naborts: [C]", 8, "did you mean `aborts_with`?"),
    ],
)
def test_a_saga_that_cannot_be(body: str, line: int, what: str) -> None:
    """Each kind of mistake in a saga is the one fault that is told, in its line."""
    fault = the_fault(saga(body))
    assert what in fault.what
    assert fault.where == f"streams.yaml:{line}"


def test_what_is_over_is_kept_for_a_week_unless_said_otherwise() -> None:
    """`keep` of a stream or a saga wins over that of `defaults`, and that over a week."""
    topology = parse(saga("starts_with: A\ncompletes_with: [B]"))
    week = 7 * 86_400
    assert {topology.keep, topology.keep_of_stream("orders"), topology.keep_of_saga("order")} == {week}
    topology = parse(
        "namespace: shop\ndefaults: {keep: 2d}\n"
        "streams: {a: {events: [A], keep: 1h}, b: {events: [B]}}\n"
        "sagas: {one: {starts_with: A, completes_with: [B], keep: 9d}, two: {starts_with: B, completes_with: [A]}}"
    )
    assert [topology.keep_of_stream(name) for name in ("a", "b", "choreo")] == [3600, 2 * 86_400, 2 * 86_400]
    assert [topology.keep_of_saga(name) for name in ("one", "two", "")] == [9 * 86_400, 2 * 86_400, 2 * 86_400]
    assert topology.keep_of_inboxes == 3600
    assert parse(STREAMS + "defaults: {keep: 5s}").keep_of_inboxes == 5


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (STREAMS + "defaults: {keep: 0s}", 4, "`keep` must be longer than nothing"),
        (STREAMS + "defaults: {keep: [1d]}", 4, "`keep` must be a span of time: 200ms, 30s, 5m, 1h or 7d"),
        ("namespace: shop\nstreams: {a: {events: [A], keep: ever}}", 2, "`keep` of stream `a` must be a span"),
    ],
)
def test_a_keep_that_cannot_be(text: str, line: int, what: str) -> None:
    """It is told where it stands, and for what."""
    fault = the_fault(text)
    assert what in fault.what
    assert fault.where == f"streams.yaml:{line}"


def test_deadlines_are_read_in_milliseconds() -> None:
    """The deadline of a whole saga and what is expected within it are read, with one event or a list of them."""
    body = """starts_with: A
completes_with: [B]
deadline: 5m
expects:
  - {after: A, within: 1.5s, one_of: [C, B]}
  - {after: C, within: 200ms, one_of: D}
"""
    assert parse(saga(body)).sagas["order"].deadlines == Deadlines(
        300_000, (Expectation("A", 1500, ("C", "B")), Expectation("C", 200, ("D",)))
    )
    assert not parse(saga("starts_with: A\ncompletes_with: [B]")).sagas["order"].deadlines


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ("deadline: soon", "`deadline` of saga `order` must be a span of time: 200ms"),
        ("deadline: 0s", "`deadline` of saga `order` must be longer than nothing"),
        ("deadline: 4000d", "`deadline` of saga `order` must be at most 3650 days"),
        ("deadline:", "`deadline` of saga `order` must be a span of time"),
        ("expects: []", "`expects` of saga `order` is empty; fill it in"),
        ("expects: {after: A, within: 1s, one_of: [C]}", "`expects` of saga `order` must be a list, like"),
        ("expects: [A]", "an entry of `expects` of saga `order` must be a mapping"),
        ("expects: [{after: A, within: 1s}]", "an entry of `expects` of saga `order` has no `one_of`"),
        ("expects: [{within: 1s, one_of: [C]}]", "has no `after`; write it like"),
        ("expects: [{after: A, one_of: [C]}]", "has no `within`; write it like"),
        ("expects: [{after: A, in: 1s, within: 1s, one_of: [C]}]", "unknown key `in`"),
        ("expects: [{after: A, within: 0, one_of: [C]}]", "`within` of an entry of `expects` of saga `order` must be longer"),
        ("expects: [{after: [A], within: 1s, one_of: [C]}]", "must be one event type, like `OrderPlaced`"),
        ("expects: [{after: A, within: 1s, one_of: []}]", "`one_of` of an entry of `expects` of saga `order` is empty"),
        ("expects: [{after: A, within: 1s, one_of: [C, C]}]", "C is listed twice in `one_of`"),
        ("expects: [{after: A, within: 1s, one_of: [Cee]}]", "no stream carries Cee, which saga `order` names"),
        ("expects: [{after: Aye, within: 1s, one_of: [C]}]", "no stream carries Aye, which saga `order` names"),
        ("expects: [{after: A, within: 1s, one_of: [A, C]}]", "A is expected after itself"),
        ("expects: [{after: B, within: 1s, one_of: [C]}]", "B ends saga `order`; nothing can be expected after"),
        ("expects: [{after: A, within: 1s, one_of: [SagaTimedOut]}]", "SagaTimedOut is choreo's own event"),
        (
            "expects: [{after: A, within: 1s, one_of: [C, D]}, {after: A, within: 2s, one_of: [D, C]}]",
            "this is expected already, in line 8; keep one of them",
        ),
    ],
)
def test_a_deadline_that_cannot_be(entry: str, what: str) -> None:
    """Each kind of mistake in `deadline` and `expects` is the one fault that is told, in its line."""
    fault = the_fault(saga(f"starts_with: A\ncompletes_with: [B]\n{entry}"))
    assert what in fault.what
    assert fault.where == "streams.yaml:8"


def test_nothing_follows_what_completes_only_together_with_others() -> None:
    """One of several ends that are all needed does not end the saga, so something may be expected after it."""
    body = "starts_with: A\ncompletes_with: {all: [B, C]}\nexpects: [{after: B, within: 1s, one_of: [C]}]"
    assert parse(saga(body)).sagas["order"].deadlines.expects[0].name == "C after B"


def test_the_stream_of_choreos_own_events_is_taken() -> None:
    """Nobody else's stream may have its name, and none may carry its events."""
    assert "is the stream of choreo's own events" in the_fault(STREAMS + "  choreo: {events: [E]}\n").what
    assert "has a stream already" in the_fault(STREAMS + "  timeouts: {events: [SagaTimedOut]}\n").what


def test_a_misspelt_event_of_a_saga_is_recognised() -> None:
    """The nearest event that a stream carries is offered."""
    text = RIGHT.replace("completes_with: [PaymentCaptured]", "completes_with: [PaymentCapturd]")
    assert the_fault(text).what.endswith("; did you mean `PaymentCaptured`?")


def test_an_event_starts_one_kind_of_saga() -> None:
    """Which saga would an event begin? Both lines are named."""
    text = saga("starts_with: A\ncompletes_with: [B]") + "  other: {starts_with: A, completes_with: [C]}\n"
    assert the_fault(text) == Fault(
        "streams.yaml:8",
        "A starts saga `other` here and saga `order` in line 6; an event type starts one kind of saga",
    )


@pytest.mark.parametrize("value", ["0", "-1", "1025", "1.5", "'8'", "010", "1_0", "0x8", "yes", "[8]", ""])
def test_partitions_are_a_plain_number_within_the_limit(value: str) -> None:
    """What YAML would read as something else than a person does is refused, too."""
    assert the_fault(STREAMS + f"partitions: {value}\n") == Fault(
        "streams.yaml:4", "`partitions` must be a whole number from 1 to 1,024"
    )


@pytest.mark.parametrize("value", [1, 16, MAX_PARTITIONS])
def test_partitions_up_to_the_limit(value: int) -> None:
    """The limit itself is allowed."""
    assert parse(STREAMS + f"partitions: {value}\n").partitions == value


@pytest.mark.parametrize(
    "url",
    ["redis://localhost", "redis://u:p@h:6380/2", "rediss://[::1]:6379", "unix:///run/redis.sock?db=1", "redis://h/"],
)
def test_server_urls_that_are_taken(url: str) -> None:
    """The three schemes of Redis URLs."""
    assert parse(STREAMS + f"redis: {url}\n").redis == url


@pytest.mark.parametrize(
    "url",
    [
        *("hunter2", "hunter2:6379", "http://:hunter2@h", "unix://", "unix:/hunter2", "redis:hunter2"),
        *("redis://:hunter2@h:port", "redis://:hunter2@[::1", "redis://h/hunter2", "REDIS://:hunter2@h"),
        *("redis://h ost:hunter2@h", '"redis://:hunter2@h\\e"', "{hunter2: 1}", "[hunter2]", ""),
    ],
)
def test_server_urls_that_are_not_taken_are_not_shown(url: str) -> None:
    """Whatever stands there may hold a password, so nothing of it is repeated."""
    fault = the_fault(STREAMS + f"redis: {url}\n")
    assert fault.where in ("streams.yaml:4", "streams.yaml:5")
    assert fault.what.startswith("`redis` must be a URL: `redis://host:6379/0`")
    assert "hunter2" not in fault.what


def test_a_password_in_the_wrong_place_is_not_shown() -> None:
    """A URL that slipped to where a name belongs loses its password in the message."""
    found = faults(STREAMS + '"redis://:hunter2@h": 1\nparticipants: {x: "redis://:hunter2@h"}\n')
    assert len(found) == 2
    assert "hunter2" not in str(found)


@pytest.mark.parametrize("spec", ["a:b", "a.b.c:d_1", "_a.B2:_c"])
def test_import_strings_that_are_taken(spec: str) -> None:
    """`module:attribute`, the module dotted."""
    assert is_import(spec)


_NO_IMPORTS = ["a", "a.b", ":b", "a:", "a:b:c", "a:b.c", ".a:b", "a..b:c", "a/b:c", "a b:c", "a:b()", "-a:b"]


@pytest.mark.parametrize("spec", [*_NO_IMPORTS, "a.class:b", "ä:b", "a:b\n"])
def test_import_strings_that_are_not_taken(spec: str) -> None:
    """Anything else is refused before it could be imported."""
    assert not is_import(spec)
    fault = the_fault(f"{STREAMS}participants: {{x: {json.dumps(spec)}}}\n")
    assert "write where it is in the code as `package.module:attribute`" in fault.what


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The path is named, and what to do."""
    path = tmp_path / "streams.yaml"
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert caught.value.faults == [
        Fault(str(path), "there is no such file; run this where your streams.yaml is, or give its path")
    ]


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    """A directory, and a path through a file, are told apart from a file that is not there."""
    (tmp_path / "file").touch()
    through = tmp_path / "file" / "x"
    for path, what in ((tmp_path, "this is a directory"), (through, "it cannot be read: Not a directory")):
        with pytest.raises(ConfigurationError) as caught:
            load(path)
        assert caught.value.faults[0].where == str(path)
        assert caught.value.faults[0].what.startswith(what)


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    """The line that is not UTF-8 is named."""
    path = tmp_path / "streams.yaml"
    path.write_bytes(b"namespace: shop\n# caf\xe9\n")
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert caught.value.faults == [Fault(f"{path}:2", "this is not UTF-8; save the file with that encoding")]


def test_nesting_without_end_is_refused() -> None:
    """Brackets by the hundred thousand are a fault, not a crash of the parser."""
    assert "nests deeper than 32 levels" in the_fault("a: " + "[" * 100_000 + "]" * 100_000).what


def test_aliases_cannot_blow_up() -> None:
    """A small text cannot become a large structure: every anchor and alias is a fault."""
    text = "a: &a [x]\n" + "".join(f"b{n}: [*a, *a]\n" for n in range(3))
    assert len(faults(text)) == 7


def test_control_characters_do_not_reach_the_message() -> None:
    """A name with an escape sequence is shown escaped."""
    fault = the_fault(STREAMS + '  "\\e[31mred": {events: [E]}\n')
    assert fault.what.isprintable()


_WORDS = ["namespace", "streams", "sagas", "order", "A", "starts_with", "events", "all", "8", "yes", "~"]
_MARKS = [": ", "- ", "\n", "  ", "[", "]", "{", "}", ",", "'", '"', "#", "!", "&a", "*a", "<<"]


@settings(max_examples=300, deadline=None)
@given(text=st.lists(st.sampled_from(_WORDS + _MARKS)).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever the text, there is a topology or a list of faults with lines; nothing else is raised."""
    _read_or_refuse(text)


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_any_characters_are_read_or_refused(text: str) -> None:
    """The same for any characters."""
    _read_or_refuse(text)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(), count=st.integers(1, 4))
def test_a_damaged_file_is_read_or_refused(seed: int, count: int) -> None:
    """The same for a right file of which some pieces are lost."""
    chance = random.Random(seed)
    text = RIGHT
    for _ in range(count):
        start = chance.randrange(len(text))
        text = text[:start] + text[start + chance.randrange(12) :]
    _read_or_refuse(text)


def _read_or_refuse(text: str) -> None:
    try:
        parse(text)
    except ConfigurationError as error:
        lines = [int(fault.where.removeprefix("<text>:")) for fault in error.faults]
        assert lines == sorted(lines)
        assert lines[0] >= 1
        assert lines[-1] <= len(text.splitlines()) + 1
        assert "secret" not in str(error)
