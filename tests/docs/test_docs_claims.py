"""What the pages claim beyond what can be typed: on a real server, with what is really there afterwards."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis
from msgspec.structs import replace

from choreo import Choreography, Event, Participant, Retry
from choreo.broker.engine import EngineProcess
from choreo.errors import SagaNotFound
from choreo.loading import load_all
from choreo.local import running
from choreo.model.facts import View
from choreo.wire.streams_yaml import load, parse
from participants.contracts import OrderPlaced
from tests.docs.pages import ROOT, code, codes, page

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

WIRE = page("docs/reference/wire-format.md")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EngineProcess]:
    with EngineProcess(tmp_path / "server") as started:
        yield started


@pytest.fixture
def client(server: EngineProcess) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url, protocol=2, decode_responses=True) as connected:
        yield connected


async def order_all(choreo: Choreography) -> None:
    """Orders that end in different ways."""
    usual = OrderPlaced("order-1", "ada", "mug", quantity=2, amount_cents=2400, card="4242", country="DE")
    orders = (
        usual,
        replace(usual, card="declined"),
        replace(usual, country="AQ"),
        replace(usual, country="PT", deliver_within_days=2),
    )
    for number, order in enumerate(orders):
        await choreo.start(order, saga_id=f"order-{number}")
    for number in range(len(orders)):
        await choreo.wait(f"order-{number}", timeout=30)


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - what is waited for happens on the server
            await asyncio.sleep(0.02)


@pytest.fixture
async def used(
    server: EngineProcess, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> redis.Redis:
    """A client of a server on which the shop has been at work."""
    monkeypatch.setenv("CHOREO_SHOP_DATA", str(tmp_path / "shop"))
    topology = load(ROOT / "streams.yaml")
    async with running(topology, load_all(topology), server.url) as choreo:
        await order_all(choreo)
        client.xadd("{shop:1}:stream:orders", {"hello": "world"})
        await until(lambda: client.exists("{shop:1}:dead"))
    return client


def types_of_keys() -> Mapping[str, str]:
    """Patterns of keys, as the page lists them, with their types."""
    patterns = {}
    for key, kind, _ in WIRE.rows("Keys"):
        words = {"ns": "shop", "p": r"\d+", "<name>": "[a-z]+", "<participant>": "[a-z]+", "<id>": ".+",
                 "<type>": "[a-z]*", "<state>": "[a-z]+"}  # fmt: skip
        parts = re.split(r"(<\w+>|\bns\b|(?<=:)p(?=}))", code(key))
        patterns["".join(words.get(part) or re.escape(part) for part in parts)] = kind
    return patterns


async def test_every_key_on_the_server_is_told_with_its_type(used: redis.Redis) -> None:
    """After the shop was at work, each key is one of the page's, with the type that it says."""
    patterns = types_of_keys()
    for key in used.scan_iter(count=1000):
        kinds = [kind for pattern, kind in patterns.items() if re.fullmatch(pattern, key)]
        assert kinds == [used.type(key)], key


def entries(client: redis.Redis, key: str) -> list[dict[str, str]]:
    answer: Any = client.xrange(key)
    return [fields for _, fields in answer]


async def test_entries_have_the_attributes_that_are_told(used: redis.Redis) -> None:
    """Each entry of a topic has the required attributes, and none that the page does not tell of."""
    told = {code(row[0]): row[1] for row in WIRE.rows("Envelope")}
    topics = used.scan_iter(match="{shop:*}:stream:*", count=1000)
    found = [fields for key in topics for fields in entries(used, key)]
    assert found
    for fields in found:
        if "hello" in fields:
            continue
        assert set(fields) <= set(told)
        assert {name for name, required in told.items() if required == "yes"} <= set(fields)


async def test_a_dead_letter_of_the_tracker_has_the_fields_that_are_told(used: redis.Redis) -> None:
    """The letter of an entry that is no event has the fields that the page gives for it."""
    told = {name: row[1] for row in WIRE.rows("Dead letters") for name in codes(row[0])}
    (letter,) = entries(used, "{shop:1}:dead")
    assert {name.replace("hello", "<name>") for name in letter} <= set(told)
    assert {name for name, where in told.items() if where.startswith("all")} - {"subject"} <= set(letter)
    assert letter["reason"] == "not-an-event"


async def test_a_dead_letter_of_a_step_has_the_fields_that_are_told(
    server: EngineProcess, client: redis.Redis
) -> None:
    """The letter of a step that failed for good has the fields that the page gives for it."""
    told = {name: row[1] for row in WIRE.rows("Dead letters") for name in codes(row[0])}
    payments = Participant("payments")

    @payments.on(Placed, retry=Retry(attempts=1))
    async def charge(placed: Placed) -> Captured:
        raise RuntimeError("no")

    topology = parse(SHOP % "OutOfStock")
    async with running(topology, [payments], server.url) as choreo:
        await choreo.start(Placed(), saga_id="order-1")
        assert (await choreo.wait("order-1", timeout=30)).status == "compensated"
    (letter,) = entries(client, f"{{t:{topology.keys.partition('order-1')}}}:dead")
    for_workers = {name for name, where in told.items() if where.startswith(("all", "workers"))}
    assert for_workers - {"cause"} <= set(letter) <= for_workers


# -- compensation by hand ----------------------------------------------------------------------------


class Placed(Event):
    pass


class Captured(Event):
    pass


class OutOfStock(Event):
    pass


class Refunded(Event):
    pass


def participants(refunding: asyncio.Event) -> list[Participant]:
    """Payments gives money back by hand, once ``refunding`` is set; inventory has no stock."""
    payments, inventory = Participant("payments"), Participant("inventory")

    @payments.on(Placed)
    async def charge(placed: Placed) -> Captured:
        return Captured()

    @payments.on(OutOfStock)
    async def give_back(failure: OutOfStock) -> Refunded:
        await refunding.wait()
        return Refunded()

    @inventory.on(Captured)
    async def reserve(captured: Captured) -> OutOfStock:
        return OutOfStock()

    return [payments, inventory]


SHOP = """
namespace: t
streams: {all: {events: [Placed, Captured, OutOfStock, Refunded, Shipped]}}
sagas: {order: {starts_with: Placed, completes_with: [Shipped], aborts_with: [%s]}}
"""


async def seen(choreo: Choreography, step: str) -> View:
    """The view, once it says that ``step`` took effect."""
    with anyio.fail_after(30):
        while True:
            with suppress(SagaNotFound):
                view = await choreo.view("order-1")
                if step in view.done:
                    return view
            await asyncio.sleep(0.02)


async def test_a_failure_that_aborts_does_not_wait_for_compensation_by_hand(server: EngineProcess) -> None:
    """The saga is compensated at once; the step that reacts to the failure runs all the same."""
    refunding = asyncio.Event()
    async with running(parse(SHOP % "OutOfStock"), participants(refunding), server.url) as choreo:
        await choreo.start(Placed(), saga_id="order-1")
        view = await choreo.wait("order-1", timeout=30)
        assert (view.status, "payments/give_back" in view.done) == ("compensated", False)
        refunding.set()
        assert (await seen(choreo, "payments/give_back")).status == "compensated"


async def test_a_failure_that_does_not_abort_leaves_the_end_to_the_last_event(server: EngineProcess) -> None:
    """The saga runs until the money is back, and then is compensated."""
    refunding = asyncio.Event()
    async with running(parse(SHOP % "Refunded"), participants(refunding), server.url) as choreo:
        await choreo.start(Placed(), saga_id="order-1")
        assert (await seen(choreo, "inventory/reserve")).status == "running"
        refunding.set()
        view = await choreo.wait("order-1", timeout=30)
        assert (view.status, view.reason) == ("compensated", "Refunded from payments/give_back")


async def test_a_new_participant_begins_where_its_groups_were_made(
    server: EngineProcess, client: redis.Redis
) -> None:
    """By default it sees every event that ever was; with groups made at the end, only what comes."""
    topology = parse((SHOP % "OutOfStock").replace("completes_with: [Shipped]", "completes_with: [Captured]"))
    payments, _ = participants(asyncio.Event())
    async with running(topology, [payments], server.url) as choreo:
        await choreo.start(Placed(), saga_id="order-1")
        await choreo.wait("order-1", timeout=30)
    for partition in range(topology.partitions):
        client.xgroup_create(f"{{t:{partition}}}:stream:all", "late", "$", mkstream=True)
    late, early = Participant("late"), Participant("early")
    heard: list[str] = []

    @late.on(Placed)
    async def hear_from_now_on(placed: Placed) -> None:
        heard.append("late")

    @early.on(Placed)
    async def hear_all(placed: Placed) -> None:
        heard.append("early")

    async with running(topology, [late, early], server.url) as choreo:
        await choreo.start(Placed(), saga_id="order-2")
        await until(lambda: len(heard) == 3)
    assert sorted(heard) == ["early", "early", "late"]
