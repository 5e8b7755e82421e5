"""The events of a booking."""

from __future__ import annotations

import msgspec

from choreo import Event


class Trip(msgspec.Struct, frozen=True):
    """What is booked, and which steps are to fail: so that each scenario can be seen."""

    flight: str
    passenger: str
    points: int
    cents: int
    fail_seat: bool = False
    fail_points: bool = False
    fail_payment: bool = False
    fail_confirmation: bool = False


class BookingRequested(Event):
    trip: Trip


class SeatReserved(Event):
    trip: Trip


class SeatReleased(Event):
    flight: str


class PointsDeducted(Event):
    trip: Trip


class PointsReturned(Event):
    points: int


class PaymentProcessed(Event):
    trip: Trip


class PaymentRefunded(Event):
    cents: int


class BookingConfirmed(Event):
    flight: str
    passenger: str
