"""The HTTP application: routes requests to the registry, and encodes its results as responses."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from ratchet.dev.api import decode, discovery
from ratchet.dev.api.kinds import JsonObject
from ratchet.dev.api.operations import Target, Written
from ratchet.dev.api.patch import check_patch_type
from ratchet.dev.api.registry import Registry
from ratchet.dev.api.requests import (
    ResourcePath,
    delete_options,
    flag,
    number,
    page,
    parse_path,
    selection,
    watch_options,
    write_options,
)
from ratchet.dev.api.responses import (
    Representation,
    aggregated_version,
    error_response,
    json_response,
    negotiate,
    present,
    present_list,
)
from ratchet.dev.api.scheduler import Scheduler
from ratchet.dev.api.status import ApiError, bad_request, too_large_body, too_large_version
from ratchet.dev.api.storage import Storage, key_of
from ratchet.dev.api.watch import Watch

BODY_LIMIT = 3 * 1024 * 1024
"""Bytes a request body may have, as for the real server."""

_DRAIN_LIMIT = 16 * BODY_LIMIT
_LOG = logging.getLogger(__name__)
_Handler = Callable[[web.Request, ResourcePath], Awaitable[web.StreamResponse]]


def make_app(
    storage: Storage,
    middlewares: Sequence[Middleware] = (),
    *,
    graceful_pods: bool = False,
    scheduler: bool = False,
    bookmark_seconds: float = 60.0,
) -> web.Application:
    """The API on ``storage`` as an aiohttp application.

    Args:
        middlewares: wrapped around every request, for example to inject faults.
        graceful_pods: see ``Registry``.
        scheduler: whether pods are bound to nodes, see ``Scheduler``.
        bookmark_seconds: time between the bookmarks of a watch.
    """
    registry = Registry(storage, graceful_pods=graceful_pods)
    placing = Scheduler(registry) if scheduler else None
    app = web.Application(middlewares=list(middlewares), client_max_size=_DRAIN_LIMIT)
    app.router.add_route("*", "/{path:.*}", _Api(registry, bookmark_seconds).handle)

    async def shut_down(_: web.Application) -> None:
        storage.close_subscriptions()
        if placing is not None:
            placing.stop()

    app.on_shutdown.append(shut_down)
    return app


class _Api:
    """Handlers for every path of the API."""

    def __init__(self, registry: Registry, bookmark_seconds: float) -> None:
        self._registry = registry
        self._bookmark_seconds = bookmark_seconds
        self._collection: dict[str, _Handler] = {
            "GET": self._list_or_watch,
            "POST": self._create,
            "DELETE": self._delete_collection,
        }
        self._item: dict[str, _Handler] = {
            "GET": self._get,
            "PUT": self._replace,
            "PATCH": self._patch,
            "DELETE": self._delete,
        }

    async def handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._route(request)
        except ApiError as error:
            return error_response(error)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception as cause:  # noqa: BLE001 - a fault in the server must reach the client as a 500
            _LOG.exception("cannot serve %s %s", request.method, request.path)
            return error_response(ApiError(500, "InternalError", f"Internal error occurred: {cause}"))

    async def _route(self, request: web.Request) -> web.StreamResponse:
        found = parse_path(request.path)
        if found is None:
            return self._discover(request)
        handler = self._handlers(found).get(request.method)
        if handler is None:
            return web.Response(status=405, text="405: Method Not Allowed\n")
        return await handler(request, found)

    def _handlers(self, found: ResourcePath) -> dict[str, _Handler]:
        if found.subresource == "binding":
            return {"POST": self._bind}
        if found.subresource:
            return {method: self._item[method] for method in ("GET", "PUT", "PATCH")}
        if found.name:
            return self._item
        if found.kind.namespaced and not found.namespace:
            return {"GET": self._list_or_watch}
        if "deletecollection" not in found.kind.verbs:
            return {method: self._collection[method] for method in ("GET", "POST")}
        return self._collection

    def _discover(self, request: web.Request) -> web.Response:
        aggregated = aggregated_version(request.headers.get("Accept", ""))
        body = discovery.document(request.path.rstrip("/"), aggregated, request.host)
        if body is None:
            return web.Response(status=404, text="404 page not found\n")
        if request.method != "GET":
            return web.Response(status=405, text="405: Method Not Allowed\n")
        if isinstance(body, str):
            return web.Response(text=body)
        response = json_response(body)
        if body.get("kind") == "APIGroupDiscoveryList":
            response.headers["Content-Type"] = discovery.AGGREGATED.format(aggregated)
        return response

    async def _get(self, request: web.Request, found: ResourcePath) -> web.Response:
        form = _form(request)
        return json_response(present(found.kind, self._registry.get(_target(found)), form))

    async def _list_or_watch(self, request: web.Request, found: ResourcePath) -> web.StreamResponse:
        selected = selection(found.kind, request.query)
        form = _form(request)
        if not flag(request.query, "watch"):
            return self._list(request, found, selected, form)

        def wanted(obj: JsonObject) -> bool:
            namespace = obj["metadata"].get("namespace", "")
            return (not found.namespace or namespace == found.namespace) and selected(obj)

        options = watch_options(request.query)
        watch = Watch(self._registry.storage, found.kind, wanted, options, form, self._bookmark_seconds)
        return await watch.run(request)

    def _list(
        self,
        request: web.Request,
        found: ResourcePath,
        selected: Callable[[JsonObject], bool],
        form: Representation,
    ) -> web.Response:
        asked = page(request.query)
        objects, version = self._registry.storage.list(found.kind, found.namespace)
        wanted = number(request.query, "resourceVersion") or 0
        if wanted > version:
            raise too_large_version(wanted, version)
        start = asked.start
        chosen = [obj for obj in objects if selected(obj) and (start is None or key_of(obj) > start)]
        meta: JsonObject = {"resourceVersion": str(asked.version or version)}
        if asked.limit and len(chosen) > asked.limit:
            remaining = len(chosen) - asked.limit
            chosen = chosen[: asked.limit]
            meta["continue"] = asked.token(key_of(chosen[-1]), asked.version or version)
            if not request.query.get("labelSelector") and not request.query.get("fieldSelector"):
                meta["remainingItemCount"] = remaining
        return json_response(present_list(found.kind, chosen, meta, form))

    async def _create(self, request: web.Request, found: ResourcePath) -> web.Response:
        form = _form(request)
        body = decode.parse_body(await _body(request), request.headers.get("Content-Type", ""))
        written = self._registry.create(found.kind, found.namespace, body, write_options(request.query))
        return _written(found, written, form)

    async def _replace(self, request: web.Request, found: ResourcePath) -> web.Response:
        form = _form(request)
        body = decode.parse_body(await _body(request), request.headers.get("Content-Type", ""))
        written = self._registry.replace(_target(found), body, write_options(request.query))
        return _written(found, written, form)

    async def _patch(self, request: web.Request, found: ResourcePath) -> web.Response:
        form = _form(request)
        media = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        check_patch_type(media)
        patch = decode.parse_json(await _body(request))
        written = self._registry.patch(_target(found), media, patch, write_options(request.query))
        return _written(found, written, form)

    async def _delete(self, request: web.Request, found: ResourcePath) -> web.Response:
        form = _form(request)
        options = delete_options(request.query, await _options_body(request))
        return json_response(present(found.kind, self._registry.delete(_target(found), options), form))

    async def _delete_collection(self, request: web.Request, found: ResourcePath) -> web.Response:
        form = _form(request)
        selected = selection(found.kind, request.query)
        options = delete_options(request.query, await _options_body(request))
        gone, version = self._registry.delete_collection(found.kind, found.namespace, selected, options)
        return json_response(present_list(found.kind, gone, {"resourceVersion": str(version)}, form))

    async def _bind(self, request: web.Request, found: ResourcePath) -> web.Response:
        body = decode.parse_body(await _body(request), request.headers.get("Content-Type", ""))
        target = body.get("target") if isinstance(body, dict) else None
        node = target.get("name", "") if isinstance(target, dict) else ""
        self._registry.bind(found.namespace, found.name, str(node))
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
        return json_response(status, 201)


def _form(request: web.Request) -> Representation:
    return negotiate(request.headers.get("Accept", ""), request.query.get("includeObject", ""))


def _target(found: ResourcePath) -> Target:
    return Target(found.kind, found.namespace, found.name, found.subresource)


def _written(found: ResourcePath, written: Written, form: Representation) -> web.Response:
    shown = present(found.kind, written.object, form)
    return json_response(shown, 201 if written.created else 200, written.warnings)


async def _body(request: web.Request) -> bytes:
    """The whole request body.

    A body that is too large is read to its end, so that the client reads the response.
    """
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge as cause:
        raise too_large_body(BODY_LIMIT) from cause
    if len(body) > BODY_LIMIT:
        raise too_large_body(BODY_LIMIT)
    return body


async def _options_body(request: web.Request) -> JsonObject:
    body = await _body(request)
    if not body.strip():
        return {}
    options: Any = decode.parse_body(body, request.headers.get("Content-Type", ""))
    if not isinstance(options, dict):
        raise bad_request("DeleteOptions: json: cannot unmarshal value into Go value of type v1.DeleteOptions")
    if options.get("kind", "DeleteOptions") != "DeleteOptions":
        raise bad_request(f"decoded object cannot be converted to DeleteOptions: {options['kind']}")
    return options
