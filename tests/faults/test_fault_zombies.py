"""Workers that are stopped for longer than their lease, and wake up when another has taken over."""

from __future__ import annotations

import signal

import pytest
from fault_bank import Asked
from fault_proxy import Proxy, calls_of
from fault_services import Service
from fault_stage import Stage, until

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

LEASE = 0.6
#: How the zombie's handler ends, and the decision that follows from it.
OUTCOMES = [
    pytest.param("", "done", id="succeeds"),
    pytest.param("abort", "failed", id="aborts"),
    pytest.param("error", "retry", id="fails"),
]


async def until_noted(stage: Stage, text: str, times: int = 1) -> None:
    await until(
        lambda: sum(text in line for line in stage.diary.lines) >= times,
        lambda: f"{text!r} to be noted; there is {stage.diary.lines}",
    )


async def stop_in_the_middle(stage: Stage, proxy: Proxy, outcome: str) -> tuple[Service, Service]:
    """A worker that was stopped while its handler ran, and one that has begun to do the same."""
    zombie = stage.start_bank(url=proxy.url, role="zombie", outcome=outcome, lease=LEASE)
    await stage.choreo.start(Asked(), saga_id="s1")
    await until_noted(stage, "began tills/take")
    zombie.send(signal.SIGSTOP)
    heir = stage.start_bank(role="heir", lease=LEASE)
    await until_noted(stage, "began tills/take", times=2)
    assert (await stage.pending())[0].is_in_hands_of(heir)
    return zombie, heir


def let_go(stage: Stage, role: str) -> None:
    (stage.folder / f"go-{role}").touch()


async def check_that_the_heir_won(stage: Stage) -> None:
    """The saga has one outcome, the heir's; nothing tells of the other one."""
    assert await stage.state("s1") == "completed"
    assert await stage.emitted("Taken") == ["s1"]
    assert await stage.emitted("Noted") == ["s1"]
    assert await stage.doubled() == []
    assert await stage.letters() == []
    for kind in ("retrying", "aborted", "dead", "undone"):
        assert await stage.journal(kind) == []


@pytest.mark.parametrize(("outcome", "decision"), OUTCOMES)
async def test_it_wakes_while_the_heir_works(
    bank: Stage, proxy: Proxy, outcome: str, decision: str
) -> None:
    """Neither its heartbeat nor its decision takes the delivery back from the one that has it now."""
    zombie, heir = await stop_in_the_middle(bank, proxy, outcome)
    heartbeats = proxy.watch(calls_of("renew"))
    zombie.send(signal.SIGCONT)
    await until(lambda: heartbeats.seen >= 2, "the zombie to renew its lease")
    let_go(bank, "zombie")
    await until_noted(bank, f"verdict zombie {decision} stale")
    (held,) = await bank.pending()
    assert held.is_in_hands_of(heir)
    assert held.deliveries == 2
    let_go(bank, "heir")
    await bank.until_ended(["s1"])
    await check_that_the_heir_won(bank)


@pytest.mark.parametrize(("outcome", "decision"), OUTCOMES)
async def test_it_wakes_when_all_is_over(bank: Stage, proxy: Proxy, outcome: str, decision: str) -> None:
    """What it decides then is a duplicate, whatever it is."""
    zombie, _ = await stop_in_the_middle(bank, proxy, outcome)
    let_go(bank, "heir")
    await bank.until_ended(["s1"])
    let_go(bank, "zombie")
    zombie.send(signal.SIGCONT)
    await until_noted(bank, f"verdict zombie {decision} duplicate")
    await check_that_the_heir_won(bank)
