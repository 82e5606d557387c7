"""Retries: what they call, how often, and what they raise."""

from __future__ import annotations

import pytest
import tenacity

from ratchet.errors import ConflictError, RatchetError
from ratchet.retry import call_with_retries


class Call:
    """A function that fails with each of `failures` in turn, and then returns."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self._failures:
            raise self._failures.pop(0)
        return "returned"


def three_attempts(_: float) -> tenacity.Retrying:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(ConflictError), stop=tenacity.stop_after_attempt(3), reraise=True
    )


def no_retries(_: float) -> tenacity.Retrying:
    raise AssertionError("no retry was needed")


def test_a_call_that_succeeds_needs_no_retries() -> None:
    call = Call()
    assert call_with_retries(call, ConflictError, no_retries) == "returned"
    assert call.calls == 1


def test_a_call_is_repeated_until_it_succeeds() -> None:
    call = Call(ConflictError("first"), ConflictError("second"))
    assert call_with_retries(call, ConflictError, three_attempts) == "returned"
    assert call.calls == 3


def test_the_first_call_counts_as_an_attempt_and_the_last_error_is_raised() -> None:
    call = Call(*(ConflictError(text) for text in ("first", "second", "third", "fourth")))
    with pytest.raises(ConflictError, match="third"):
        call_with_retries(call, ConflictError, three_attempts)
    assert call.calls == 3


@pytest.mark.parametrize("failures", [[], [ConflictError("first")]], ids=["at once", "later"])
def test_another_error_is_raised_at_once(failures: list[Exception]) -> None:
    call = Call(*failures, RatchetError("another"))
    with pytest.raises(RatchetError, match="another"):
        call_with_retries(call, ConflictError, three_attempts)
    assert call.calls == len(failures) + 1
