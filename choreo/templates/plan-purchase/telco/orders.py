"""Orders: the first thing to be made, and the last to be switched on."""

from __future__ import annotations

from choreo import Context, Participant

from .book import open_book
from .contracts import OrderActivated, OrderCreated, PaymentProcessed, PlanValidated

orders = Participant("orders", lifespan=open_book)


@orders.on(PlanValidated)
async def create(plan: PlanValidated, ctx: Context) -> OrderCreated:
    ctx.resources.enter(ctx.key, "order", f"{plan.plan} for {plan.customer}")
    return OrderCreated(plan.plan, plan.customer, plan.device, plan.cents)


@create.undo
async def cancel(plan: PlanValidated, created: OrderCreated | None, ctx: Context) -> None:
    ctx.resources.cancel(ctx.undoes)


# All is paid for by now: should the switch be out of order, it is better to repair it than to give everything
# back. So the purchase waits for an operator: `choreo retry` goes on, `choreo compensate` unwinds.
@orders.on(PaymentProcessed, on_failure="park")
async def activate(payment: PaymentProcessed, ctx: Context) -> OrderActivated:
    ctx.resources.enter(ctx.key, "line", payment.customer)
    return OrderActivated(payment.customer)


@activate.undo
async def switch_off(payment: PaymentProcessed, activated: OrderActivated | None, ctx: Context) -> None:
    ctx.resources.cancel(ctx.undoes)
