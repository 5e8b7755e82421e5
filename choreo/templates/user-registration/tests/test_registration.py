"""Registrations: confirmed, refused, forgotten. Time is the harness's: two days pass in no time."""

import pytest
from signup.contracts import RegistrationRequested
from signup.directory import Directory

pytestmark = pytest.mark.anyio

ANN = RegistrationRequested("ann@home.example", "Ann")
AWAY = RegistrationRequested("away@home.example", "Kim")


async def test_a_registration(choreo_harness, directory: Directory) -> None:
    """The address is confirmed, so the user is active and nobody is reminded any more."""
    async with choreo_harness() as signup:
        registration = await signup.start(ANN)
        await signup.finish()
        registration.assert_status("completed")
    assert directory.users() == [("ann@home.example", "active")]
    assert [subject for _, subject, _ in directory.mails()] == ["Confirm your address", "Welcome, Ann"]


async def test_an_address_that_is_taken(choreo_harness, directory: Directory) -> None:
    """The first one keeps it."""
    async with choreo_harness() as signup:
        first = await signup.start(ANN)
        await signup.settle()
        second = await signup.start(RegistrationRequested("ann@home.example", "Eve"))
        await signup.settle()
        first.assert_status("completed")
        second.assert_status("compensated")
        second.assert_undone()
    assert directory.users() == [("ann@home.example", "active")]


async def test_an_address_that_does_not_exist(choreo_harness, directory: Directory) -> None:
    """The link is revoked and the user removed, so the address is free again."""
    async with choreo_harness() as signup:
        registration = await signup.start(RegistrationRequested("ann@nowhere.example", "Ann"))
        await signup.settle()
        registration.assert_status("compensated")
        registration.assert_undone("mail/send_link", "users/register")
    assert directory.users() == []
    assert directory.mails() == [("ann@nowhere.example", "Confirm your address", True)]


async def test_a_reminder_after_a_day(choreo_harness, directory: Directory) -> None:
    """It comes when the day is over, and once."""
    async with choreo_harness() as signup:
        registration = await signup.start(AWAY)
        await signup.advance(hours=23)
        assert len(directory.mails()) == 1
        await signup.advance(hours=2)
        assert directory.mails()[1:] == [("away@home.example", "Your link is still waiting", False)]
        registration.assert_status("running")


async def test_a_link_that_nobody_opens(choreo_harness, directory: Directory) -> None:
    """After two days the registration unwinds, and the user is told."""
    async with choreo_harness() as signup:
        registration = await signup.start(AWAY)
        await signup.advance(hours=49)
        registration.assert_status("compensated")
        assert "no EmailConfirmed after LinkSent" in registration.view.reason
    assert directory.users() == []
    assert directory.mails()[-1] == ("away@home.example", "Your registration has expired", False)
