"""From streams.yaml to participants in memory, and to the graph of what they make together."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, cast

from choreo.errors import ConfigurationError, ContractError, Fault
from choreo.model.event import OWN_EVENTS, type_name
from choreo.model.participant import Participant
from choreo.wire.limits import MAX_ERROR_CHARACTERS
from choreo.wire.nodes import quote, suggest
from choreo.wire.streams_yaml import is_import
from choreo.wire.topology import Topology

if TYPE_CHECKING:
    from choreo.model.flow import Flow


def load_all(topology: Topology) -> list[Participant]:
    """Import every participant of ``topology``, in the order of the file.

    Raises:
        ConfigurationError: with every fault of every participant; broken contracts are among them.
    """
    root = import_root(topology)
    participants: list[Participant] = []
    faults: list[Fault] = []
    for name, spec in topology.participants.items():
        try:
            participants.append(_load_named(name, spec, root))
        except ContractError as error:
            faults.append(_contract_fault(error, spec))
        except ConfigurationError as error:
            faults += error.faults
        # What has no place in the code is told with its place in the file.
        place = _place(topology, f"participant:{name}")
        faults = [Fault(place, fault.what) if fault.where == spec else fault for fault in faults]
    if faults:
        raise ConfigurationError(list(dict.fromkeys(faults)))
    return participants


def import_root(topology: Topology) -> Path:
    """The folder that ``module:attribute`` is imported from: that of the file, else the current one."""
    return topology.source.resolve().parent if topology.source else Path.cwd()


def flow_of(topology: Topology, participants: Sequence[Participant]) -> Flow:
    """The graph of ``participants`` under the streams and sagas of ``topology``."""
    # Who only runs participants does not look at the whole.
    from choreo.model.flow import Plan, Route, SagaPlan, derive

    steps = [step for participant in participants for step in participant.steps]
    heard = {type_name(event) for step in steps for event in step.on}
    routes = {
        event: Route(stream, _place(topology, f"event:{event}"))
        for event, stream in topology.routes.items()
        if event not in OWN_EVENTS or event in heard
    }
    sagas = tuple(
        SagaPlan(
            name=saga.name,
            starts_with=saga.starts_with,
            completes_with=saga.completes_with,
            completes_when_all=saga.completes_when_all,
            aborts_with=saga.aborts_with,
            deadlines=saga.deadlines,
            where=_place(topology, f"saga:{saga.name}"),
        )
        for saga in topology.sagas.values()
    )
    return derive(participants, Plan(routes, sagas))


def load_function(spec: str, root: Path) -> Callable[..., Any]:
    """Import the function ``module:function``, with ``root`` first on ``sys.path``.

    Raises:
        ConfigurationError: if there is none, or the import fails.
    """
    function = _load(spec, root, "function")
    if not callable(function):
        raise _error(spec, f"`{spec}` is of type {type(function).__name__}, not a function")
    return cast(Callable[..., Any], function)


def load_participant(spec: str, root: Path) -> Participant:
    """Import the participant ``module:attribute``, with ``root`` first on ``sys.path``.

    Raises:
        ConfigurationError: if there is no such module or attribute, the attribute is no participant, or
            the import fails. Its fault's ``where`` is the line in the code, or ``spec`` if there is none.
        ContractError: if the code of a step says something that cannot hold.
    """
    participant = _load(spec, root, "participant")
    if not isinstance(participant, Participant):
        kind = type(participant).__name__
        raise _error(spec, f"`{spec}` is of type {kind}, not a participant; name a choreo.Participant")
    return participant


def _load(spec: str, root: Path, what: str) -> object:
    """What ``module:attribute`` names; ``what`` says what it should be."""
    if not is_import(spec):
        word = "attribute" if what == "participant" else what
        raise _error(spec, f"{quote(spec)} names no {what}; write `package.module:{word}`")
    module_name, _, attribute = spec.partition(":")
    module = _import(spec, module_name, root)
    if not hasattr(module, attribute):
        known = [name for name, value in vars(module).items() if _is_a(what, value)]
        right = suggest(attribute, known) or f"; its {what}s are: {', '.join(known) or 'none'}"
        raise _error(spec, f"module `{module_name}` ({module.__file__}) has no `{attribute}`{right}")
    return getattr(module, attribute)


def _is_a(what: str, value: object) -> bool:
    return isinstance(value, Participant) if what == "participant" else isinstance(value, FunctionType)


def _load_named(name: str, spec: str, root: Path) -> Participant:
    participant = load_participant(spec, root)
    if participant.name != name:
        raise _error(
            spec, f"`{spec}` calls itself `{participant.name}`, but stands in the file as `{name}`;"
            " give both the same name"
        )
    return participant


def _import(spec: str, name: str, root: Path) -> ModuleType:
    if sys.path[:1] != [str(root)]:
        sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ContractError:
        raise
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise _error(
                spec, f"there is no module `{error.name}` (looked for in {root} and on Python's path);"
                " check the name, or move the file there"
            ) from error
        raise _error(
            _raised_at(error, root) or spec,
            f"module `{name}` needs `{error.name}`, which cannot be found; install it or correct the import",
        ) from error
    except (Exception, SystemExit) as error:
        raise _error(
            _raised_at(error, root) or spec,
            f"module `{name}` cannot be imported: {type(error).__name__}: {error!s:.{MAX_ERROR_CHARACTERS}}",
        ) from error


def _raised_at(error: BaseException, root: Path) -> str | None:
    """``file:line`` where ``error`` was raised: the last line of the user's own code, else of any code."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    machinery = {__file__, importlib.__file__}
    code = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in machinery and not frame.filename.startswith("<")
    ]
    own = [frame for frame in code if _is_own(Path(frame.filename), root)]
    return next((f"{frame.filename}:{frame.lineno}" for frame in reversed(own or code)), None)


def _is_own(path: Path, root: Path) -> bool:
    return path.is_relative_to(root) and "site-packages" not in path.parts


def _contract_fault(error: ContractError, spec: str) -> Fault:
    """Contract errors begin with the place of the handler, where there is one."""
    placed = re.fullmatch(r"(.+?:\d+): (.+)", str(error), re.DOTALL)
    return Fault(placed[1], placed[2]) if placed else Fault(spec, str(error))


def _error(where: str, what: str) -> ConfigurationError:
    return ConfigurationError([Fault(where, what)])


def _place(topology: Topology, key: str) -> str:
    line = topology.lines.get(key)
    source = str(topology.source or "the topology")
    return f"{source}:{line}" if line else source
