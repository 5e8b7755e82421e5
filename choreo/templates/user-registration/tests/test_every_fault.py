"""What must hold whatever goes wrong, tried under every single fault that choreo can think of."""

from datetime import timedelta
from pathlib import Path

import pytest
from signup.contracts import RegistrationRequested
from signup.directory import Directory

from choreo.testing import failure_matrix

pytestmark = pytest.mark.anyio

STREAMS = Path(__file__).parents[1] / "streams.yaml"


@pytest.mark.parametrize("case", failure_matrix(STREAMS))
async def test_a_user_is_active_or_gone(case, directory: Directory) -> None:
    """After a completed registration the user is active; otherwise there is none, and no link that works."""
    async with case.harness() as signup:
        registration = await signup.start(RegistrationRequested("ann@home.example", "Ann"))
        await signup.finish(within=timedelta(days=3))
        registration.assert_status("completed", "compensated")
        completed = registration.status == "completed"
    assert directory.users() == ([("ann@home.example", "active")] if completed else [])
    links = [void for _, subject, void in directory.mails() if subject.startswith("Confirm")]
    assert links.count(False) == completed
