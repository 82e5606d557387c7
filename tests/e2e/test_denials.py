"""Denied requests: a real API server's answers are recognized by what denied them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ratchet.errors import ApiUnavailableError, RatchetError
from ratchet.store.api_errors import AdmissionDeniedError, NamespaceTerminatingError
from ratchet.store.apiserver import ApiServer, connect
from tests.e2e.world import World, wait_for


@pytest.fixture
def api(world: World) -> Iterator[ApiServer]:
    """The API server, with requests that are retried for a second: denials by webhooks are retried."""
    made = connect(str(world.cluster.kubeconfig), patience=1.0)
    yield made
    made.close()


def create_config_map(api: ApiServer, namespace: str) -> RatchetError | None:
    """Try to create a ConfigMap, which is deleted again. Return the error."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    try:
        made = api.create(path, {"metadata": {"generateName": "denied-"}})
    except RatchetError as error:
        return error
    api.delete(f"{path}/{made['metadata']['name']}", uid=made["metadata"]["uid"])
    return None


def wait_for_denial(api: ApiServer, namespace: str, kind: type[RatchetError], named: str) -> None:
    """Wait until a ConfigMap is denied as expected: controllers and caches need a moment."""
    errors: list[RatchetError | None] = [None]

    def is_denied() -> bool:
        error = create_config_map(api, namespace)
        errors.append(error)
        return isinstance(error, kind) and named in error.details

    try:
        wait_for("the ConfigMap is denied", is_denied, 30.0)
    except RatchetError as timeout:
        raise AssertionError(f"{errors[-1]!r}: {getattr(errors[-1], 'details', '')}") from timeout


@contextmanager
def cluster_objects(world: World, *objects: dict[str, Any]) -> Iterator[None]:
    """Objects outside of namespaces, for the time of the block."""
    try:
        world.apply(*objects)
        yield
    finally:
        for one in objects:
            world.try_kubectl("delete", one["kind"], one["metadata"]["name"], "--ignore-not-found", "--wait=false")


def only_in(world: World) -> dict[str, Any]:
    return {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}}


def config_maps_created(world: World) -> dict[str, Any]:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    return {"namespaceSelector": only_in(world), "resourceRules": [rule]}


def test_an_exceeded_quota_is_named(world: World, api: ApiServer) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"count/configmaps": "0"}}}
    world.apply({"apiVersion": "v1", "kind": "ResourceQuota", **quota})
    wait_for_denial(api, world.namespace, AdmissionDeniedError, "ResourceQuota none ")


def test_a_validating_admission_policy_is_named(world: World, api: ApiServer) -> None:
    name, version = world.namespace, "admissionregistration.k8s.io/v1"
    policy = {"matchConstraints": config_maps_created(world), "validations": [{"expression": "false"}]}
    binding = {"policyName": name, "validationActions": ["Deny"]}
    with cluster_objects(
        world,
        {"apiVersion": version, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name}, "spec": policy},
        {
            "apiVersion": version,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": binding,
        },
    ):
        wait_for_denial(api, world.namespace, AdmissionDeniedError, f"ValidatingAdmissionPolicy {name} ")


def test_a_webhook_that_does_not_answer_is_named(world: World, api: ApiServer) -> None:
    matched = config_maps_created(world)
    webhook = {
        "name": "nowhere.example.com",
        "clientConfig": {"service": {"namespace": world.namespace, "name": "nowhere"}},
        "rules": matched["resourceRules"],
        "namespaceSelector": matched["namespaceSelector"],
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "timeoutSeconds": 1,
        "admissionReviewVersions": ["v1"],
    }
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": world.namespace},
        "webhooks": [webhook],
    }
    with cluster_objects(world, configuration):
        wait_for_denial(api, world.namespace, ApiUnavailableError, "nowhere.example.com does not answer")


def test_a_terminating_namespace_is_recognized(world: World, api: ApiServer) -> None:
    """A finalizer keeps the namespace: it ends only once the ConfigMap is gone."""
    ending = f"{world.namespace[:50]}-ending"
    kept = {"name": "kept", "namespace": ending, "finalizers": ["example.com/kept"]}
    with cluster_objects(world, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ending}}):
        world.kubectl("apply", "-n", ending, "-f", "-", stdin=config_map_json(kept))
        try:
            world.kubectl("delete", "namespace", ending, "--wait=false")
            wait_for_denial(api, ending, NamespaceTerminatingError, "is being deleted")
        finally:
            world.kubectl(
                "patch", "configmap", "kept", "-n", ending, "--type=merge", "-p", '{"metadata":{"finalizers":null}}'
            )


def config_map_json(metadata: dict[str, Any]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
