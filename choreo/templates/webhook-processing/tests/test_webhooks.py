"""Webhooks: genuine ones and others, sent once or again and again."""

import json

import pytest
from hooks.book import Book
from hooks.contracts import WebhookReceived
from hooks.signatures import sign

pytestmark = pytest.mark.anyio

EVERYTHING = ["acknowledgement", "customer", "invoice", "webhook"]


def signed(body: str) -> WebhookReceived:
    return WebhookReceived(body, sign(body))


def sale(customer: str = "ann", cents: int = 2400) -> WebhookReceived:
    return signed(json.dumps({"customer": customer, "cents": cents}))


def kinds(book: Book) -> list[str]:
    return [kind for kind, _ in book.held()]


async def test_a_webhook(choreo_harness, book: Book) -> None:
    """It is acknowledged when customer and invoice are done, and not before."""
    async with choreo_harness() as hooks:
        hooks.fail("invoices/book", error=ConnectionError("the ledger is away"))
        hook = await hooks.start(sale())
        await hooks.settle()
        assert kinds(book) == ["customer", "webhook"]
        await hooks.finish()
        hook.assert_status("completed")
    assert kinds(book) == EVERYTHING


async def test_a_webhook_that_is_sent_three_times(choreo_harness, book: Book) -> None:
    """The sender's id is the saga's id, so it is one saga."""
    async with choreo_harness() as hooks:
        for _ in range(3):
            hook = await hooks.start(sale(), saga_id="evt_1")
            await hooks.settle()
        hook.assert_status("completed")
    assert kinds(book) == EVERYTHING


async def test_a_forged_signature(choreo_harness, book: Book) -> None:
    """Nothing is done, not even stored."""
    async with choreo_harness() as hooks:
        hook = await hooks.start(WebhookReceived(sale().body, "00"))
        await hooks.settle()
        hook.assert_status("compensated")
        hook.assert_undone()
        assert "the signature is not that of the sender" in hook.view.reason
    assert book.held() == []


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"customer": "ann", "cents": "many"}'])
async def test_a_body_that_was_not_agreed_on(choreo_harness, book: Book, body: str) -> None:
    """However well it is signed."""
    async with choreo_harness() as hooks:
        hook = await hooks.start(signed(body))
        await hooks.settle()
        hook.assert_status("compensated")
        assert "not what was agreed on" in hook.view.reason


@pytest.mark.parametrize("hook", [sale(customer="nobody"), sale(cents=-1)], ids=["customer", "invoice"])
async def test_one_branch_refuses(choreo_harness, book: Book, hook: WebhookReceived) -> None:
    """The other one is undone, and then what both had begun with."""
    async with choreo_harness() as hooks:
        refused = await hooks.start(hook)
        await hooks.settle()
        refused.assert_status("compensated")
        assert refused.undone[-1] == "archive/store"
    assert book.held() == []
