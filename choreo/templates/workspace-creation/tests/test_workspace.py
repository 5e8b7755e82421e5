"""Workspaces: two branches side by side, of which either may fail."""

import pytest
from workspaces.book import Book
from workspaces.contracts import WorkspaceRequested

pytestmark = pytest.mark.anyio

REQUEST = WorkspaceRequested("acme", "ann", ["bob", "kim"], 50)
EVERYTHING = [
    ("invitation", "ann to acme"),
    ("invitation", "bob to acme"),
    ("invitation", "kim to acme"),
    ("storage", "50 GB for acme"),
    ("subscription", "500 a month from ann"),
    ("workspace", "acme"),
]


async def test_a_workspace(choreo_harness, book: Book) -> None:
    """Everybody is invited, and it is paid for."""
    async with choreo_harness() as workspaces:
        workspace = await workspaces.start(REQUEST)
        await workspaces.settle()
        workspace.assert_status("completed")
    assert book.held() == EVERYTHING


async def test_the_card_is_declined(choreo_harness, book: Book) -> None:
    """Both branches unwind, and what they began with comes last."""
    async with choreo_harness() as workspaces:
        workspace = await workspaces.start(WorkspaceRequested("acme", "ann", ["bob"], 50, card="declined"))
        await workspaces.settle()
        workspace.assert_status("compensated")
        assert sorted(workspace.undone) == ["mail/send", "mail/send", "spaces/create", "storage/provision"]
        assert workspace.undone[-1] == "spaces/create"
    assert book.held() == []


async def test_too_much_storage(choreo_harness, book: Book) -> None:
    """One branch fails at once; the other is called off, however far it is."""
    async with choreo_harness() as workspaces:
        workspace = await workspaces.start(WorkspaceRequested("acme", "ann", ["bob"], 5000))
        await workspaces.settle()
        workspace.assert_status("compensated")
    assert book.held() == []


async def test_one_invitation_fails_once(choreo_harness, book: Book) -> None:
    """It is sent again, and no other."""
    async with choreo_harness() as workspaces:
        workspaces.fail("mail/send", error=ConnectionError("the mail server is away"))
        workspace = await workspaces.start(REQUEST)
        await workspaces.finish()
        workspace.assert_status("completed")
        assert workspace.view.retries == 1
    assert book.held() == EVERYTHING


async def test_an_error_that_would_come_again(choreo_harness, book: Book) -> None:
    """It is not worth another attempt: the workspace unwinds at once."""
    async with choreo_harness() as workspaces:
        workspaces.fail("mail/send", error=ValueError("that is no address"))
        workspace = await workspaces.start(REQUEST)
        await workspaces.settle()
        workspace.assert_status("compensated")
        assert workspace.view.retries == 0
    assert book.held() == []
