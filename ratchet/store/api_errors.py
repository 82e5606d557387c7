"""The errors of requests to the Kubernetes API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from http.client import responses

from ratchet.errors import ApiUnavailableError, ConflictError, RatchetError

_RETRIED = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


class NotFoundError(RatchetError):
    """The API has no such object."""


class ForbiddenError(RatchetError):
    """The account lacks a permission. The message names it."""


class AlreadyExistsError(ConflictError):
    """An object of this name exists."""


class ExpiredError(ConflictError):
    """The API server no longer has the resourceVersion of a watch or a list: list again."""


class UnauthorizedError(ApiUnavailableError):
    """The API server rejects the credentials. They may have been renewed since they were read."""


def error_of_response(method: str, path: str, status: int, data: bytes, headers: Mapping[str, str]) -> RatchetError:
    """The error of a response with a status of 400 or more."""
    try:
        answer = json.loads(data)
    except ValueError:
        answer = {}
    text = str(answer.get("message") or "") if isinstance(answer, dict) else ""
    reason = answer.get("reason") if isinstance(answer, dict) else None
    message = f"cannot {method} {path}: {text or responses.get(status, f'HTTP status {status}')}"
    if status == HTTPStatus.NOT_FOUND:
        return NotFoundError(message)
    if status == HTTPStatus.CONFLICT:
        return AlreadyExistsError(message) if reason == "AlreadyExists" else ConflictError(message)
    if status == HTTPStatus.GONE:
        return ExpiredError(message)
    if status == HTTPStatus.UNAUTHORIZED:
        return UnauthorizedError(message)
    if status in _RETRIED:
        return ApiUnavailableError(message, retry_after=_seconds(headers.get("Retry-After")))
    if status == HTTPStatus.FORBIDDEN:
        return ForbiddenError(message, details="the account lacks a permission: docs/operations.md lists them all")
    return RatchetError(message)


def _seconds(header: str | None) -> float | None:
    return float(header) if header and header.isdigit() else None


def first_line(cause: BaseException) -> str:
    """The first line of an exception's text, or of the text of its `reason`."""
    reason = getattr(cause, "reason", None)
    return str(reason if isinstance(reason, Exception | str) and str(reason) else cause).splitlines()[0][:300]
