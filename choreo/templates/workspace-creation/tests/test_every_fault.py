"""What must hold whatever goes wrong, tried under every single fault that choreo can think of."""

from pathlib import Path

import pytest
from workspaces.book import Book
from workspaces.contracts import WorkspaceRequested

from choreo.testing import failure_matrix

pytestmark = pytest.mark.anyio

STREAMS = Path(__file__).parents[1] / "streams.yaml"


@pytest.mark.parametrize("case", failure_matrix(STREAMS))
async def test_a_workspace_is_whole_or_not_there(case, book: Book) -> None:
    """A workspace that was created has storage, and somebody who pays. Of any other there is nothing left."""
    async with case.harness() as workspaces:
        workspace = await workspaces.start(WorkspaceRequested("acme", "ann", [], 50))
        await workspaces.finish()
        workspace.assert_status("completed", "compensated")
        completed = workspace.status == "completed"
    kinds = [kind for kind, _ in book.held()]
    assert kinds == (["invitation", "storage", "subscription", "workspace"] if completed else [])
