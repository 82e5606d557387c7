"""The errors of requests to the Kubernetes API."""

from __future__ import annotations

import json
import re
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


# A request that the API server hands on (kubernetes.io, "Manually constructing apiserver proxy URLs").
_PROXIED = re.compile(r"/(pods|services|nodes)/[^/]+/proxy/")


class NotFoundError(RatchetError):
    """The API has no such object, according to a Status of the API server."""


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
        return _not_found(method, path, message, answer)
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


def _not_found(method: str, path: str, message: str, answer: object) -> RatchetError:
    """The error of a 404. Only a Status of the API server says that the object is missing.

    Anything in front of the API server may answer 404 too. A pod behind the subresource `proxy` answers for itself.
    """
    is_status = isinstance(answer, dict) and (answer.get("kind"), answer.get("reason")) == ("Status", "NotFound")
    if is_status or _PROXIED.search(path):
        return NotFoundError(message)
    return ApiUnavailableError(
        f"cannot {method} {path}: HTTP status 404 without a Kubernetes Status",
        details="check that the kubeconfig has the address of the API server, and check the proxies before it",
    )


def _seconds(header: str | None) -> float | None:
    return float(header) if header and header.isdigit() else None


def first_line(cause: BaseException) -> str:
    """The first line of an exception's text, or of the text of its `reason`."""
    reason = getattr(cause, "reason", None)
    return str(reason if isinstance(reason, Exception | str) and str(reason) else cause).splitlines()[0][:300]
