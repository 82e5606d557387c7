"""An in-memory Kubernetes API server for tests and the demo.

It serves Namespaces, Nodes, Pods, ConfigMaps, ServiceAccounts, Events and Leases over HTTP(S). ``kubectl`` and
client libraries work unchanged. It has optimistic concurrency, watches with history, selectors, preconditions,
patches, table output, and ``Status`` errors with the messages of kube-apiserver.

Limits:

* no authentication, authorization or admission plugins: everyone who reaches the port has all permissions;
* no persistence: the state ends with the process;
* no server-side apply and no ``managedFields`` (apply patches get 415);
* no controllers: no garbage collection by ownerReferences, no service accounts for new namespaces, no kubelet;
* the optional scheduler considers nodeSelector and ``unschedulable`` only;
* paginated lists are not snapshots: each page has the state at the time of its request;
* field validation covers the top level and ``metadata`` of each kind, not every nested field;
* most of a pod's spec is mutable;
* responses are JSON only. Protobuf bodies are read for the kinds that ``kubectl create`` sends as protobuf;
* OpenAPI documents have paths without schemas, so ``kubectl explain`` prints nothing;
* no exec, logs, eviction or proxy subresources, and no ``events.k8s.io`` group.
"""

from ratchet.dev.api.server import EmbeddedApi, serve

__all__ = ["EmbeddedApi", "serve"]
