"""The errors of Ratchet, in one tree. Each class has its CNI error code; docs/troubleshooting.md lists them.

Codes below 100 are those of the CNI specification (SPEC.md, section "Error"). Plugins define 100 and above.
A message is "cannot <verb> <object>: <cause>". `details` says what to do next.
"""

from __future__ import annotations


class RatchetError(Exception):
    """An error that is reported to the runtime or to the user.

    `code` is the CNI error code for the runtime. `details` is a second sentence for the reader, or empty.
    """

    code: int = 100

    def __init__(self, message: str, *, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class UnsupportedVersionError(RatchetError):
    """The cniVersion is not supported, or does not have this verb."""

    code = 1


class InvalidEnvironmentError(RatchetError):
    """A `CNI_*` variable is missing or malformed; the message names it."""

    code = 4


class UndecodableError(RatchetError):
    """stdin is not a JSON object."""

    code = 6


class InvalidConfigError(RatchetError):
    """A key of the network configuration, a setting or a kubeconfig is missing or invalid; the message names it."""

    code = 7


class HostNamespaceError(RatchetError):
    """The sandbox's network namespace is that of the node, in which nothing is changed."""

    code = 8


class TryAgainError(RatchetError):
    """A temporary error: the runtime should retry."""

    code = 11


class PeerMissingError(TryAgainError):
    """The other pod of a link did not join within `wait`."""


class ApiUnavailableError(TryAgainError):
    """The Kubernetes API did not answer in time, or its answer is not usable.

    `retry_after` is the `Retry-After` of the server in seconds, or None.
    """

    def __init__(self, message: str, *, details: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, details=details)
        self.retry_after = retry_after


class TopologiesUnknownError(TryAgainError):
    """The account may not list topologies, so the links that they declare are unknown."""


class VniExhaustedError(TryAgainError):
    """Every VNI of `vni_range` is in use."""


class PodMissingError(TryAgainError):
    """The API has no such pod, or another pod with this name."""


class SupersededError(TryAgainError):
    """Another sandbox replaced this one, or the runtime deleted it during ADD."""


class FollowedError(SupersededError):
    """The runtime deleted the attachment and added it again while the first ADD was still running."""


class UnavailableError(RatchetError):
    """STATUS: the plugin cannot serve ADD now (CNI 1.1.0)."""

    code = 50


class InvalidIntentError(RatchetError):
    """A pod or a topology declares an invalid link; the message names the pod and the label or the line.

    `place` is the same in the errors of all pods that one declaration concerns.
    """

    code = 101

    def __init__(self, message: str, *, details: str = "", place: str = "") -> None:
        super().__init__(message, details=details)
        self.place = place


class DatapathError(RatchetError):
    """The kernel rejected a change; the message names the interface and the network namespace."""

    code = 102


class VniInUseError(DatapathError):
    """Another tunnel of Ratchet on this node has the VNI."""


class VniForeignError(DatapathError):
    """A VXLAN device that is not Ratchet's has the `vni` on this node."""

    def __init__(self, message: str, *, vni: int = 0, details: str = "") -> None:
        super().__init__(message, details=details)
        self.vni = vni


class GuardError(DatapathError):
    """The kernel rejected a change of the guard of the tunnel port, or has no nftables."""


class NamespaceError(DatapathError):
    """An error in the network namespace at `path`, which may be the peer's."""

    def __init__(self, message: str, *, path: str = "", details: str = "") -> None:
        super().__init__(message, details=details)
        self.path = path


class ForeignInterfaceError(NamespaceError):
    """An interface with this name exists there and is not Ratchet's; it is not changed."""


class ForeignNamespaceError(NamespaceError):
    """The path of the patch panel leads to something that is not Ratchet's; it is not changed."""


class NamespaceGoneError(NamespaceError):
    """The path is not a network namespace, or not any more."""


class DelegateError(RatchetError):
    """A delegate plugin failed; code and message are the plugin's own if it gave them."""

    code = 103


class CheckFailedError(RatchetError):
    """CHECK: an interface differs from its record; the message lists the differences."""

    code = 104


class IllegalTransitionError(RatchetError):
    """The state machine has no such transition: a bug in Ratchet."""

    code = 105


class MalformedRecordError(RatchetError):
    """A link record that cannot be decoded.

    `record` is its name, `version` its resourceVersion, or "".
    """

    code = 106

    def __init__(self, message: str, *, record: str = "", details: str = "", version: str = "") -> None:
        super().__init__(message, details=details)
        self.record = record
        self.version = version


class NewerRecordError(MalformedRecordError):
    """A record that only newer versions may use (its `minReader`); it is not changed."""


class ConflictError(TryAgainError):
    """A write was rejected because the object changed after it was read: read and decide again."""


class AlreadyAddedError(RatchetError):
    """A second ADD of an attachment without a DEL between them (SPEC.md, "ADD")."""

    code = 107


class AddressFamilyError(RatchetError):
    """The nodes of a tunnel have no address family in common; the message names both nodes and their addresses."""

    code = 108
