"""Shipping: sends what is paid for, if it can."""

from __future__ import annotations

from choreo import Abort, Participant

from .contracts import OrderShipped, PaymentCaptured

shipping = Participant("shipping")


@shipping.on(PaymentCaptured)
async def ship(payment: PaymentCaptured) -> OrderShipped:
    if payment.country == "AQ":
        raise Abort("nothing is delivered to Antarctica")
    return OrderShipped(payment.order_id)
