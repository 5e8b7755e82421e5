"""Flows made by hand, for the tests of what is found in them."""

from __future__ import annotations

from typing import Any

from choreo.model.flow import Flow, Plan, Route, SagaPlan, StepNode, UndoNode


def node(label: str, hears: str, emits: str = "", **more: Any) -> StepNode:
    """A step; event types are separated by spaces, `undo="X"` gives it an undo that emits X."""
    participant, _, name = label.partition("/")
    undo = more.pop("undo", None)
    return StepNode(
        participant=participant,
        name=name,
        hears=tuple(hears.split()),
        emits=tuple(sorted(emits.split())),
        where=f"{participant}.py:{len(name)}",
        undo=None if undo is None else UndoNode(f"undo_{name}", tuple(str(undo).split()), (), "undo.py:1"),
        **more,
    )


def plan(start: str, completes: str, aborts: str = "", *, every: bool = False) -> SagaPlan:
    """A saga `order`, declared in line 90."""
    ends = frozenset(completes.split()), frozenset(aborts.split())
    return SagaPlan("order", frozenset(start.split()), ends[0], "streams.yaml:90", every, ends[1])


def flow_of(saga: SagaPlan | None, *steps: StepNode, carried: str | None = None) -> Flow:
    """A flow whose event types stand in lines 10, 11, ... of streams.yaml, in the order of `carried`."""
    sagas = (saga,) if saga else ()
    names = Flow(Plan(sagas=sagas), steps, {}).events if carried is None else carried.split()
    routes = {name: Route("all", f"streams.yaml:{10 + number}") for number, name in enumerate(names)}
    return Flow(Plan(routes, sagas), steps, {})
