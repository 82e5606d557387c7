"""The metadata of objects in manifests: names, labels and annotations, by the rules of the API server."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ratchet.cli.documents import ManifestError, Value
from ratchet.cli.object_rules import annotations_problem, key_problem, label_problem, name_problem, namespace_problem
from ratchet.cli.problems import Problem
from ratchet.core.escape import excerpt
from ratchet.core.intent import LINKS
from ratchet.core.intent.pods import ENABLED
from ratchet.store.codec import decode_time

_PRINTABLE = re.compile(r"[-A-Za-z0-9_.]{1,253}")


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata of an object. `name` is empty if it is generated from `prefix` (`generateName`).

    Labels and annotations with invalid keys are left out.
    """

    namespace: str
    name: str
    prefix: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    created: str | None
    deleted: str | None


def read_metadata(value: Value, namespace: str, problems: list[Problem], *, is_template: bool = False) -> Metadata:
    """Read the metadata of an object. What the API server rejects is added to `problems`.

    `namespace`: of an object that names none. With `is_template`, it is the namespace of the workload, and there is no
    name. Raises ManifestError if a type is wrong, or the object has no usable name.
    """
    prefix = name = ""
    if not is_template:
        namespace = value["namespace"].text("") or namespace
        _check(value["namespace"], namespace, namespace_problem(namespace), problems)
        name, prefix = value["name"].text(""), value["generateName"].text("")
        if not name and not prefix:
            raise value["name"].error("it is missing")
        _check(value["name"], name, name_problem(name) if name else "", problems)
        _check(value["generateName"], prefix, name_problem(f"{prefix}x") if not name else "", problems)
    labels, annotations = value["labels"], value["annotations"]
    texts = _checked(labels, problems, are_labels=True)
    notes = _checked(annotations, problems, are_labels=False)
    if problem := annotations_problem(notes):
        problems.append(_problem(annotations, problem))
    created, deleted = _time(value["creationTimestamp"]), _time(value["deletionTimestamp"])
    return Metadata(namespace, name, "" if name else prefix, texts, notes, created, deleted)


def _time(value: Value) -> str | None:
    """A time, as text; None if there is none. Raises ManifestError."""
    text = value.text("")
    try:
        decode_time(text)
    except (ValueError, OverflowError) as cause:
        raise value.error(f'invalid time "{excerpt(text)}": expected a form such as 2026-01-31T12:00:00Z') from cause
    return text or None


def key_slips(place: str, metadata: Metadata) -> Iterator[Problem]:
    """Warnings of a pod's labels and annotations that are without effect. `place` names the pod or the workload."""
    if LINKS in metadata.labels:
        yield Problem(False, f"{place}: the label {LINKS} is ignored: make it an annotation")
    value = metadata.annotations.get(ENABLED, metadata.labels.get(ENABLED))
    if value is not None and value.strip().lower() not in ("true", "false"):
        yield Problem(False, f'{place}: {ENABLED}: "{excerpt(value)}" is not "true": the pod gets no links')


def _checked(value: Value, problems: list[Problem], *, are_labels: bool) -> dict[str, str]:
    """Labels or annotations. A value of another type is left out: it is one of the `problems`."""
    found = dict[str, str]()
    for key, one in value.fields().items():
        if problem := key_problem(key if are_labels else key.lower()):
            problems.append(_problem(value, problem))
            continue
        try:
            text = one.text("")
        except ManifestError as error:
            problems.append(Problem(True, f"{error.place}: {error.cause}{_hint(error.details)}"))
            continue
        if are_labels and (problem := label_problem(text)):
            hint = "; use an annotation of the same name" if key.startswith(f"{ENABLED}.") else ""
            problems.append(_problem(one, f"{problem}{hint}"))
        found[key] = text
    return found


def _check(value: Value, text: str, problem: str, problems: list[Problem]) -> None:
    """Add a problem of a name. Raises ManifestError if the name cannot be used in messages."""
    if not problem:
        return
    if not _PRINTABLE.fullmatch(text):
        raise value.error(problem)
    problems.append(_problem(value, problem))


def _problem(value: Value, cause: str) -> Problem:
    return Problem(True, f"{value.error('').place}: {cause}")


def _hint(details: str) -> str:
    return f": {details}" if details else ""
