"""Rules of the API server for names, labels and annotations.

Source: k8s.io/apimachinery/pkg/util/validation and pkg/api/validation/objectmeta.go. Each function returns why a value
is invalid, or an empty text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ratchet.cni.arguments import is_dns_label, is_dns_subdomain
from ratchet.core.escape import excerpt

ANNOTATIONS_MOST = 256 * 1024  # bytes of all annotations of an object
_LABEL_MOST = 63
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")


def name_problem(name: str) -> str:
    """For the name of a pod, a workload or a ConfigMap."""
    if is_dns_subdomain(name):
        return ""
    return f'invalid name "{excerpt(name)}": expected at most 253 of a-z 0-9 - . with a letter or digit at both ends'


def namespace_problem(name: str) -> str:
    """For the name of a namespace."""
    if is_dns_label(name):
        return ""
    return f'invalid namespace "{excerpt(name)}": expected at most 63 of a-z 0-9 - with a letter or digit at both ends'


def key_problem(key: str) -> str:
    """For the key of a label or an annotation."""
    prefix, slash, name = key.rpartition("/")
    if (not slash or is_dns_subdomain(prefix)) and name and not label_problem(name):
        return ""
    return f"invalid key {excerpt(key)}: expected at most {_LABEL_MOST} of A-Z a-z 0-9 - _ . after an optional domain/"


def label_problem(value: str) -> str:
    """For the value of a label."""
    if len(value) > _LABEL_MOST:
        return f'invalid label value "{excerpt(value)}": {len(value)} characters, at most {_LABEL_MOST}'
    if not _LABEL.fullmatch(value):
        return f'invalid label value "{excerpt(value)}": expected A-Z a-z 0-9 - _ . with a letter or digit at both ends'
    return ""


def annotations_problem(annotations: Mapping[str, str]) -> str:
    """For the size of all annotations."""
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    return f"{size} bytes, at most {ANNOTATIONS_MOST}" if size > ANNOTATIONS_MOST else ""
