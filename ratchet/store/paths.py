"""Paths of namespaces and of collections in the Kubernetes API."""

from __future__ import annotations


def namespace_path(namespace: str) -> str:
    """The path of a namespace."""
    return f"/api/v1/namespaces/{namespace}"


def config_maps_path(namespace: str) -> str:
    """The path of a namespace's ConfigMaps."""
    return f"{namespace_path(namespace)}/configmaps"


def pods_path(namespace: str) -> str:
    """The path of a namespace's pods."""
    return f"/api/v1/namespaces/{namespace}/pods"


def leases_path(namespace: str) -> str:
    """The path of a namespace's Leases."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
