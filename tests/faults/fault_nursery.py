"""Forks services: everything is imported once, so that each starts in milliseconds. See fault_services.

Reads requests from its standard input, one JSON object a line, and answers each with one line of JSON:

``{"job": ..., "log": ..., "with": {...}}``  do a job of fault_jobs; answers the child's process id
``{"signal": ..., "to": ...}``               send a signal to a child, if it lives
``{"ended": ...}``                           how a child has ended (its code, or minus the signal), or null

Only this process buries its children, so an id always means the child that it was given to. When the
input ends so do all of them.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import traceback
from typing import Any

import fault_jobs


class Children:
    """The processes that were started, and how they ended."""

    def __init__(self) -> None:
        self._ended: dict[int, int | None] = {}

    def answer(self, request: dict[str, Any]) -> int | None:
        if "job" in request:
            return self._start(request)
        self._bury()
        if "ended" in request:
            return self._ended[request["ended"]]
        if self._ended[request["to"]] is None:
            os.kill(request["to"], request["signal"])
        return None

    def _start(self, request: dict[str, Any]) -> int:
        child = os.fork()
        if not child:
            bear(request)
        self._ended[child] = None
        return child

    def _bury(self) -> None:
        while any(code is None for code in self._ended.values()):
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            self._ended[child] = os.waitstatus_to_exitcode(status)


def bear(request: dict[str, Any]) -> None:
    """Do the job, in a process of its own. Does not return."""
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for ours, theirs in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(ours, theirs)
    code = 1
    try:
        getattr(fault_jobs, request["job"])(**request["with"])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    fault_jobs.warm_up()
    gc.collect()
    gc.freeze()
    children = Children()
    for line in sys.stdin:
        print(json.dumps(children.answer(json.loads(line))), flush=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
