"""A tour of choreo: the reference shop on an embedded server, and four orders that end differently.

Run it with ``python -m examples.tour``. It needs no server, no network and no root: the server that it
starts is its own, keeps an append-only file, and is gone when the tour is over.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import anyio
from rich.console import Console

from choreo.broker.clock import wall_clock
from choreo.broker.engine import Engine
from choreo.choreography import Choreography
from choreo.drawing.trace_format import format_trace
from choreo.errors import ChoreoError
from choreo.loading import load_all
from choreo.local import running
from choreo.model.saga import State
from choreo.wire.streams_yaml import load
from participants.contracts import OrderPlaced

ROOT = Path(__file__).resolve().parent.parent


def order(order_id: str, **special: str | int) -> OrderPlaced:
    """An order that ships, but for what is ``special`` about it."""
    usual: dict[str, str | int] = {
        "customer": "ada", "sku": "mug", "quantity": 2, "amount_cents": 2400, "card": "visa-4242",
        "country": "DE",
    }  # fmt: skip
    return OrderPlaced(order_id=order_id, **{**usual, **special})  # type: ignore[arg-type]


#: What happens, the order with which it happens, and how its saga must end.
STOPS: tuple[tuple[str, OrderPlaced, State], ...] = (
    (
        "An order that ships. Payment and stock react to OrderPlaced side by side; shipping waits for both.",
        order("ships"),
        State.COMPLETED,
    ),
    (
        "One of two branches fails: the card is declined while the goods are being reserved. Whatever the"
        " other branch did is undone.",
        order("declined", card="declined"),
        State.COMPENSATED,
    ),
    (
        "The carrier refuses the address when money and goods are taken already: both are given back, side"
        " by side.",
        order("address-refused", country="AQ"),
        State.COMPENSATED,
    ),
    (
        "The very last step finds the delivery too late: the shipment is cancelled first, then money and"
        " goods are given back.",
        order("too-late", country="PT", deliver_within_days=2),
        State.COMPENSATED,
    ),
)


async def tour(console: Console, folder: Path) -> bool:
    """Run every stop. Returns whether all sagas ended as they should."""
    os.environ["CHOREO_SHOP_DATA"] = str(folder / "shop")
    topology = load(ROOT / "streams.yaml")
    async with Engine(folder / "engine") as engine:
        console.print(f"{engine.server} with an append-only file, for this tour only\n", style="dim")
        async with running(topology, load_all(topology), engine.url) as choreo:
            return all([await visit(console, choreo, number, *stop) for number, stop in enumerate(STOPS, 1)])


async def visit(
    console: Console, choreo: Choreography, number: int, story: str, placed: OrderPlaced, expected: State
) -> bool:
    """Start one order, wait until it has ended, and show its trace."""
    console.rule(f"{number} of {len(STOPS)}", style="dim")
    console.print(f"{story}\n")
    saga_id = await choreo.start(placed, saga_id=f"order-{placed.order_id}")
    view = await choreo.wait(saga_id, timeout=30)
    await settle(choreo, saga_id)
    console.print(format_trace(await choreo.trace(saga_id), now=wall_clock()))
    console.print()
    return view.status is expected


async def settle(choreo: Choreography, saga_id: str) -> None:
    """Wait until nothing reacts any more: some steps react to the end of a saga."""
    with anyio.move_on_after(10):
        while (await choreo.trace(saga_id)).awaits:  # noqa: ASYNC110 - it happens in the server
            await anyio.sleep(0.02)


def main() -> int:
    """Returns the exit code: 0 if every order ended as its story says."""
    console = Console()
    try:
        with tempfile.TemporaryDirectory(prefix="choreo-tour-") as folder:
            fine = anyio.run(tour, console, Path(folder))
    except ChoreoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console.rule(style="dim")
    console.print("Next: start the shop with `.venv/bin/choreo dev` and look at the README.")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
