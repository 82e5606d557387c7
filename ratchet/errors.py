"""Every error that Ratchet raises on purpose, in one tree; each class knows its CNI error code.

Codes below 100 are the CNI specification's own (SPEC.md, section "Error"); 100 and above are left to plugins.
A message reads "cannot <do> <object>: <cause>"; `details` says what to do next, where we know.
"""

from __future__ import annotations


class RatchetError(Exception):
    """Something that a person has to know of.

    `code` is the CNI error code that the runtime is given; `details` is a second sentence for the person who
    reads it, empty where there is nothing to add.
    """

    code: int = 100

    def __init__(self, message: str, *, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class UnsupportedVersionError(RatchetError):
    """The runtime speaks a cniVersion that this verb does not exist in, or that we do not speak."""

    code = 1


class InvalidEnvironmentError(RatchetError):
    """A `CNI_*` variable is missing or malformed; the message names it."""

    code = 4


class UndecodableError(RatchetError):
    """What came on stdin is not JSON."""

    code = 6


class InvalidConfigError(RatchetError):
    """A key of the network configuration is missing or of the wrong type; the message names it."""

    code = 7


class HostNamespaceError(RatchetError):
    """The sandbox's network namespace is the plugin's own: acting in it would rewire the node."""

    code = 8


class TryAgainError(RatchetError):
    """Nothing is wrong that time could not mend; the runtime should call again."""

    code = 11


class PeerMissingError(TryAgainError):
    """The other pod of a link did not come within `wait`."""


class ApiUnavailableError(TryAgainError):
    """The Kubernetes API did not answer in time, or not with an answer.

    `retry_after` is the number of seconds after which the server asked to be called again, None where it did not.
    """

    def __init__(self, message: str, *, details: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, details=details)
        self.retry_after = retry_after


class TopologiesUnknownError(TryAgainError):
    """The account may not list topologies now: the links that they declare are unknown."""


class VniExhaustedError(TryAgainError):
    """Every number of `vni_range` is held by a link."""


class PodMissingError(TryAgainError):
    """The API has no such pod, or by now another of that name."""


class SupersededError(TryAgainError):
    """Another sandbox has taken this one's place, or the runtime has deleted it meanwhile."""


class FollowedError(SupersededError):
    """The runtime has deleted the attachment and added it anew while its first ADD still ran."""


class UnavailableError(RatchetError):
    """STATUS: the plugin cannot serve ADD now (CNI 1.1.0)."""

    code = 50


class InvalidIntentError(RatchetError):
    """A pod asks for something that it may not have; the message names the pod and the label."""

    code = 101


class DatapathError(RatchetError):
    """The kernel refused; the message says which interface in which namespace."""

    code = 102


class VniInUseError(DatapathError):
    """Another tunnel of this node has the number: a left-over, or one that has it by right."""


class VniForeignError(DatapathError):
    """A VXLAN device that is not ours has the `vni` on this node."""

    def __init__(self, message: str, *, vni: int = 0, details: str = "") -> None:
        super().__init__(message, details=details)
        self.vni = vni


class NamespaceError(DatapathError):
    """Something is amiss in the network namespace at `path`, which may be the peer's."""

    def __init__(self, message: str, *, path: str = "", details: str = "") -> None:
        super().__init__(message, details=details)
        self.path = path


class ForeignInterfaceError(NamespaceError):
    """An interface of the wanted name exists there and is not ours: it is left alone."""


class NamespaceGoneError(NamespaceError):
    """It is not, or no longer, a network namespace."""


class DelegateError(RatchetError):
    """A delegated plugin failed; code and message are the plugin's own where it gave them."""

    code = 103


class CheckFailedError(RatchetError):
    """CHECK found that a link is not what its record says; the message lists the differences."""

    code = 104


class IllegalTransitionError(RatchetError):
    """An event that the state machine's table does not allow in this state: a fault of ours, not the user's."""

    code = 105


class MalformedRecordError(RatchetError):
    """A ConfigMap in Ratchet's namespace that claims to be a link and cannot be read as one.

    `record` is its name, `version` its resourceVersion where that is known.
    """

    code = 106

    def __init__(self, message: str, *, record: str = "", details: str = "", version: str = "") -> None:
        super().__init__(message, details=details)
        self.record = record
        self.version = version


class NewerRecordError(MalformedRecordError):
    """A record that only newer versions may use (its `minReader`): it is left as it is."""


class ConflictError(TryAgainError):
    """A write was refused because the object changed since it was read: read again, decide again."""


class AlreadyAddedError(RatchetError):
    """A second ADD of an attachment that has had no DEL: the runtime must delete it first (SPEC.md, "ADD")."""

    code = 107


class AddressFamilyError(RatchetError):
    """The nodes of a tunnel have no address family in common; the message names both nodes and their addresses."""

    code = 108
