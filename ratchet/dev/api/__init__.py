"""A small Kubernetes API server held in memory, for tests and demonstrations.

It serves Namespaces, Nodes, Pods, ConfigMaps, ServiceAccounts, Events and Leases over HTTP(S) with the
semantics clients lean on: optimistic concurrency, watches with history, selectors, preconditions, patches,
table output, ``Status`` errors worded like kube-apiserver's. ``kubectl`` and client libraries work unchanged.

What it is not, plainly:

* no authentication, authorization or admission plugins: whoever reaches the port may do anything;
* no persistence: the state is gone when the process ends;
* no server-side apply and no ``managedFields`` (apply patches get 415);
* no controllers: no garbage collection by ownerReferences, no service accounts made for namespaces, no kubelet;
* scheduling, when asked for, looks at nodeSelector and ``unschedulable`` only;
* paginated lists are not snapshots: later pages show the state at the time they are read;
* field validation knows the top level and ``metadata`` of each kind, not every nested field;
* pod updates do not enforce the immutability of most of the spec;
* answers are JSON only, and protobuf bodies are read for the kinds ``kubectl create`` sends them for; OpenAPI
  documents carry paths, not schemas, so ``kubectl explain`` has nothing to show;
* no exec, logs, eviction or proxy subresources, and no ``events.k8s.io`` group.
"""

from ratchet.dev.api.server import EmbeddedApi, serve

__all__ = ["EmbeddedApi", "serve"]
