"""Denied API requests: the error names what denied them, and what to do next.

The messages are those of kube-apiserver 1.34.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from ratchet.errors import ApiUnavailableError, ConflictError, RatchetError
from ratchet.store.api_errors import (
    AdmissionDeniedError,
    AlreadyExistsError,
    ExpiredError,
    ForbiddenError,
    NamespaceTerminatingError,
    NotFoundError,
    error_of_response,
)
from tests.support.doctables import quoted, rows

RECORD = 'configmaps "default.p.in1.q.in2" is forbidden: '
LEASE = 'leases.coordination.k8s.io "vni-11" is forbidden: '
QUOTA = "exceeded quota: small, requested: count/configmaps=1, used: count/configmaps=5, limited: count/configmaps=5"
POLICY = "ValidatingAdmissionPolicy 'labels' with binding 'all' denied request: failed expression: has(object.metadata)"
WEBHOOK_DOWN = (
    'Internal error occurred: failed calling webhook "validate.kyverno.svc-fail": failed to call webhook: '
    'Post "https://kyverno-svc.kyverno.svc:443/validate?timeout=10s": service "kyverno-svc" not found'
)
FULL = "etcdserver: mvcc: database space exceeded"
TERMINATING = f"{RECORD}unable to create new content in namespace ratchet because it is being terminated"
ACCOUNT = "system:serviceaccount:ratchet:ratchet-agent"

# Message, HTTP status, the error's class, and what `details` has to name.
DENIED: list[tuple[str, int, type[RatchetError], str]] = [
    (
        f'configmaps is forbidden: User "{ACCOUNT}" cannot create resource "configmaps" in API group "" '
        'in the namespace "ratchet"',
        403,
        ForbiddenError,
        ACCOUNT,
    ),
    (
        f'leases.coordination.k8s.io "vni-11" is forbidden: User "{ACCOUNT}" cannot delete resource "leases" in API '
        'group "coordination.k8s.io" in the namespace "ratchet": RBAC: role.rbac.authorization.k8s.io "x" not found',
        403,
        ForbiddenError,
        ACCOUNT,
    ),
    ('forbidden: User "system:anonymous" cannot get path "/version"', 403, ForbiddenError, "system:anonymous"),
    (RECORD + QUOTA, 403, AdmissionDeniedError, "ResourceQuota small "),
    (
        'pods "p" is forbidden: failed quota: small: must specify cpu for: main',
        403,
        AdmissionDeniedError,
        "ResourceQuota small ",
    ),
    (
        'pods "p" is forbidden: insufficient quota to match these scopes: '
        "[{PriorityClass In [system-node-critical system-cluster-critical]}]",
        403,
        AdmissionDeniedError,
        "no ResourceQuota",
    ),
    (f"{LEASE}status unknown for quota: small, resources: count/leases", 403, ApiUnavailableError, "passes by itself"),
    (f"{LEASE}not yet ready to handle request", 403, ApiUnavailableError, "passes by itself"),
    (RECORD + 'admission webhook "w.example.com" denied the request: no', 403, AdmissionDeniedError, "w.example.com"),
    (
        RECORD + 'admission webhook "w.example.com" denied the request without explanation',
        400,
        AdmissionDeniedError,
        "w.example.com",
    ),
    (
        'Internal error occurred: admission webhook "w.example.com" denied the request: panic',
        500,
        ApiUnavailableError,
        "w.example.com",
    ),
    (WEBHOOK_DOWN, 500, ApiUnavailableError, "validate.kyverno.svc-fail does not answer"),
    (RECORD + POLICY, 422, AdmissionDeniedError, "ValidatingAdmissionPolicy labels "),
    (RECORD + POLICY, 403, AdmissionDeniedError, "ValidatingAdmissionPolicy labels "),
    (TERMINATING, 403, NamespaceTerminatingError, "is being deleted"),
    (
        'pods "p" is forbidden: maximum cpu usage per Container is 1, but limit is 2',
        403,
        AdmissionDeniedError,
        "LimitRange",
    ),
    (
        'pods "p" is forbidden: [minimum memory usage per Pod is 1Gi, but request is 1Mi, '
        "cpu max limit to request ratio per Pod is 2, but provided ratio is 4.000000]",
        403,
        AdmissionDeniedError,
        "LimitRange",
    ),
    (
        'pods "p" is forbidden: violates PodSecurity "restricted:latest": host namespaces (hostNetwork=true)',
        403,
        AdmissionDeniedError,
        "the message has its reason",
    ),
    (FULL, 500, ApiUnavailableError, "etcd is full"),
]


def error_of(message: str, status: int, **more: Any) -> RatchetError:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": message, **more}
    return error_of_response("POST", "/api/v1/namespaces/ratchet/configmaps", status, json.dumps(body).encode(), {})


@pytest.mark.parametrize(("message", "status", "kind", "named"), DENIED)
def test_a_denied_request_names_what_denied_it(message: str, status: int, kind: type[RatchetError], named: str) -> None:
    error = error_of(message, status, reason="Forbidden")
    assert type(error) is kind
    assert str(error) == f"cannot POST /api/v1/namespaces/ratchet/configmaps: {message}"
    assert named in error.details
    assert ("lacks a permission" in error.details) is (kind is ForbiddenError)


@pytest.mark.parametrize("status", [404, 409, 410])
def test_a_webhook_that_denies_with_another_status_says_nothing_about_the_object(status: int) -> None:
    """A 404 of a webhook must not count as a missing record, nor its 409 as a conflict that a retry solves."""
    error = error_of(RECORD + 'admission webhook "w" denied the request: not found', status, reason="NotFound")
    assert type(error) is AdmissionDeniedError


@pytest.mark.parametrize("spoof", [QUOTA, 'User "x" cannot create resource', "not yet ready to handle request"])
def test_the_text_of_a_webhook_is_not_taken_for_another_denial(spoof: str) -> None:
    error = error_of(f'{RECORD}admission webhook "w" denied the request: {RECORD}{spoof}', 403)
    assert type(error) is AdmissionDeniedError
    assert "admission webhook w " in error.details


def test_a_terminating_namespace_is_recognized_by_its_cause() -> None:
    cause = {"reason": "NamespaceTerminating", "message": "namespace x is being terminated", "field": "metadata"}
    error = error_of(f"{RECORD}the namespace ends", 403, details={"causes": [cause]})
    assert type(error) is NamespaceTerminatingError


@pytest.mark.parametrize("details", [None, [], "x", {"causes": None}, {"causes": [1, "x", {}]}, {"causes": {}}])
def test_malformed_causes_are_ignored(details: object) -> None:
    assert type(error_of(RECORD + QUOTA, 403, details=details)) is AdmissionDeniedError


@pytest.mark.parametrize(
    ("message", "status", "reason", "kind"),
    [
        ('configmaps "a" not found', 404, "NotFound", NotFoundError),
        ('configmaps "a" already exists', 409, "AlreadyExists", AlreadyExistsError),
        ('Operation cannot be fulfilled on configmaps "a": the object has been modified', 409, "", ConflictError),
        ("too old resource version: 1 (2)", 410, "Expired", ExpiredError),
        ('Pod "a" is invalid: metadata.uid: Forbidden: field is immutable', 422, "Invalid", RatchetError),
    ],
)
def test_other_responses_keep_their_errors(message: str, status: int, reason: str, kind: type[RatchetError]) -> None:
    assert type(error_of(message, status, reason=reason)) is kind


def test_a_response_that_denies_nothing_costs_no_import() -> None:
    """A pod start without an agent reads a record that does not exist yet."""
    code = """if True:
        import sys
        from ratchet.store.api_errors import error_of_response
        error_of_response("GET", "/x", 404, b'{"message": "configmaps \\\\"a\\\\" not found"}', {})
        sys.exit("ratchet.store.denials" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("body", [b"<html>Access denied</html>", b"", b"[]", b"null"])
def test_a_403_without_status_points_to_proxies(body: bytes) -> None:
    error = error_of_response("GET", "/api/v1/pods", 403, body, {})
    assert type(error) is ForbiddenError
    assert str(error) == "cannot GET /api/v1/pods: Forbidden"
    assert "proxies" in error.details


@pytest.mark.parametrize("row", rows("troubleshooting.md", "Denied API requests", "the message contains"))
def test_the_documented_texts_are_those_of_tested_messages(row: list[str]) -> None:
    (text,) = quoted(row[0])
    pieces = text.split("…")
    assert any(all(piece in message for piece in pieces) for message, *_ in DENIED)


def test_every_kind_of_denial_is_documented() -> None:
    texts = [
        quoted(row[0])[0].split("…")
        for row in rows("troubleshooting.md", "Denied API requests", "the message contains")
    ]
    for message, *_ in DENIED:
        assert any(all(piece in message for piece in pieces) for pieces in texts), message
