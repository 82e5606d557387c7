"""What denied a request, by the Status that the API server answers with.

A Status names its origin only in its message. The messages are those of kubernetes/kubernetes, in
staging/src/k8s.io/apiserver/pkg: endpoints/handlers/responsewriters (authorizers), admission/plugin/resourcequota,
.../webhook/errors, .../policy/validating and .../namespace/lifecycle; and in plugin/pkg/admission/limitranger.

A webhook and a policy choose the HTTP status of a denial: 403, 422 and 400 are usual, but 404 and 409 are possible.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ratchet.errors import ApiUnavailableError, RatchetError
from ratchet.store.api_errors import AdmissionDeniedError, ForbiddenError, NamespaceTerminatingError

# The start of a message: that of apierrors.NewForbidden with and without a name, or of NewInternalError.
_IS_FORBIDDEN = r'(?:[^\s:"]+(?: "[^"]*")? is )?forbidden'
_START = rf"^(?:{_IS_FORBIDDEN}|Internal error occurred): "
_TERMINATING = "the namespace is being deleted: create it again if it is still needed"

# The first match counts. Text of a webhook or a policy may contain any of the other texts, so these come first.
_MESSAGES: tuple[tuple[type[RatchetError], str, str], ...] = (
    (
        ApiUnavailableError,
        _START + r'failed calling webhook "(?P<name>[^"]*)"',
        "the admission webhook {name} does not answer: start its pods, or exclude the object's namespace from it",
    ),
    (
        AdmissionDeniedError,
        _START + r'admission webhook "(?P<name>[^"]*)" denied the request',
        "the admission webhook {name} denied it: exempt Ratchet's accounts or the object's namespace from it",
    ),
    (
        AdmissionDeniedError,
        _START + r"ValidatingAdmissionPolicy '(?P<name>[^']*)'",
        "the ValidatingAdmissionPolicy {name} denied it: exempt Ratchet's accounts or the object's namespace from it",
    ),
    (
        ApiUnavailableError,
        _START + r"(?:not yet ready to handle request|status unknown for quota: )",
        "the API server or its quota controller is starting: the error passes by itself",
    ),
    (
        AdmissionDeniedError,
        _START + r"(?:exceeded|failed) quota: (?P<name>[^\s,:]+)",
        "the ResourceQuota {name} denied it: raise its limits; a link needs a ConfigMap, a tunnel also a Lease",
    ),
    (
        AdmissionDeniedError,
        _START + r"insufficient quota to ",
        "no ResourceQuota of the namespace allows it: create one that covers what the message names",
    ),
    (
        AdmissionDeniedError,
        _START + r"\[?(?:(?:maximum|minimum|Maximum|Minimum) \S+ usage per |\S+ max limit to request ratio per )",
        "a LimitRange of the namespace denied it: change its limits",
    ),
    (
        NamespaceTerminatingError,
        _START + r"unable to create new content in namespace \S+ because it is being terminated",
        _TERMINATING,
    ),
    (
        ForbiddenError,
        _START + r'User "(?P<name>[^"]*)" .*cannot ',
        "the account {name} lacks a permission: docs/operations.md lists them all",
    ),
    (
        AdmissionDeniedError,
        rf"^{_IS_FORBIDDEN}: ",
        "an admission plugin of the API server denied it: the message has its reason",
    ),
    (
        ApiUnavailableError,
        r"etcdserver: (?:mvcc: database space exceeded|no space)",
        "etcd is full: compact and defragment it, then disarm its alarm (etcd.io, maintenance, space quota)",
    ),
)


def error_of_denial(message: str, status: Mapping[str, Any]) -> RatchetError | None:
    """The error with this message, if the Status (meta/v1) is that of a denied request. `details` name what denied it.

    The error is ApiUnavailableError if a retry may succeed.
    """
    if "NamespaceTerminating" in _cause_types(status):
        return NamespaceTerminatingError(message, details=_TERMINATING)
    text = str(status.get("message") or "")
    for kind, pattern, details in _MESSAGES:
        if found := re.search(pattern, text):
            return kind(message, details=details.format_map(found.groupdict()))
    return None


def _cause_types(status: Mapping[str, Any]) -> Iterable[object]:
    """The types of `details.causes`, of which a response may have anything."""
    details = status.get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    return [cause.get("reason") for cause in causes if isinstance(cause, dict)] if isinstance(causes, list) else []
