"""A purchase: retries, the deadline, crashes, and what an operator may do."""

import pytest
from telco.book import Book
from telco.contracts import PlanChosen

pytestmark = pytest.mark.anyio

CHOSEN = PlanChosen("large", "ann", "phone", 79_900)
EVERYTHING = [("device", "phone"), ("line", "ann"), ("order", "large for ann"), ("payment", "79900")]
UNDOABLE = ["orders/create", "devices/allocate", "payments/charge", "orders/activate"]


async def test_a_purchase(choreo_harness, book: Book) -> None:
    """Order, device, payment and line."""
    async with choreo_harness() as telco:
        purchase = await telco.start(CHOSEN)
        await telco.settle()
        purchase.assert_status("completed")
    assert book.held() == EVERYTHING


async def test_a_plan_that_does_not_exist(choreo_harness, book: Book) -> None:
    """Nothing has been done, so nothing is undone."""
    async with choreo_harness() as telco:
        purchase = await telco.start(PlanChosen("huge", "ann", "phone", 1))
        await telco.settle()
        purchase.assert_status("compensated")
        purchase.assert_undone()
    assert book.held() == []


@pytest.mark.parametrize("step", ["plans/validate", *UNDOABLE])
async def test_two_attempts_fail(choreo_harness, book: Book, step: str) -> None:
    """The third one succeeds."""
    async with choreo_harness() as telco:
        telco.fail(step, times=2, error=ConnectionError("no line"))
        purchase = await telco.start(CHOSEN)
        await telco.finish()
        purchase.assert_status("completed")
        assert purchase.view.retries == 2
    assert book.held() == EVERYTHING


async def test_three_attempts_fail(choreo_harness, book: Book) -> None:
    """There is no fourth: what was done before is undone, last things first."""
    async with choreo_harness() as telco:
        telco.fail("payments/charge", times=3, error=ConnectionError("no line"))
        purchase = await telco.start(CHOSEN)
        await telco.finish()
        purchase.assert_status("compensated")
        assert purchase.undone == ["payments/charge", "devices/allocate", "orders/create"]
    assert book.held() == []


async def test_five_minutes_for_the_whole(choreo_harness, book: Book) -> None:
    """A purchase that gets nowhere is unwound when its time is up."""
    async with choreo_harness() as telco:
        telco.hang("devices/allocate")
        purchase = await telco.start(CHOSEN)
        await telco.advance(minutes=4, seconds=59)
        purchase.assert_status("running")
        await telco.advance(seconds=30)
        purchase.assert_status("compensating", "compensated")
    assert ("payment", "79900") not in book.held()


@pytest.mark.parametrize("when", ["before", "after effect", "before commit", "after commit"])
@pytest.mark.parametrize("step", UNDOABLE)
async def test_a_crash_in_the_middle(choreo_harness, book: Book, step: str, when: str) -> None:
    """Another process resumes the purchase where it was."""
    async with choreo_harness() as telco:
        telco.crash(step, when=when)
        purchase = await telco.start(CHOSEN)
        await telco.finish()
        purchase.assert_status("completed")
    assert book.held() == EVERYTHING


async def test_an_operator_has_it_tried_again(choreo_harness, book: Book) -> None:
    """The switch is out of order; when it is repaired, the purchase goes on where it stood."""
    async with choreo_harness() as telco:
        telco.fail("orders/activate", times=3, error=ConnectionError("the switch is out of order"))
        purchase = await telco.start(CHOSEN)
        await telco.advance(minutes=1)
        purchase.assert_status("running")
        assert purchase.view.parked == ["orders/activate"]
        await telco.choreo.retry(purchase.id)
        await telco.settle()
        purchase.assert_status("completed")
    assert book.held() == EVERYTHING


async def test_an_operator_has_it_compensated(choreo_harness, book: Book) -> None:
    """The switch cannot be repaired: everything is given back."""
    async with choreo_harness() as telco:
        telco.fail("orders/activate", times=3, error=ConnectionError("the switch is out of order"))
        purchase = await telco.start(CHOSEN)
        await telco.advance(minutes=1)
        await telco.compensate(purchase, note="the switch is beyond repair")
        await telco.settle()
        purchase.assert_status("compensated")
        assert purchase.undone[0] == "orders/activate"
    assert book.held() == []
