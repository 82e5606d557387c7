"""Serialize this process's threads in kernel requests that need the kernel's rtnl_mutex."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")

_lock = threading.Lock()


def holding_rtnl_lock(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Decorate a function that at most one thread may run at a time.

    The kernel serializes these requests anyway, for all namespaces (rtnl_mutex). Threads that wait in the kernel and
    for the interpreter add a fifth to the time for a hundred vEths. A decorated function must be short and must not
    wait. It must not call another decorated function.
    """

    @wraps(function)
    def call(*arguments: Given.args, **options: Given.kwargs) -> Result:
        with _lock:
            return function(*arguments, **options)

    return call
