"""A stand-in for Multus, which runs several networks for one pod. It is a module of tests, and a CNI plugin.

`start` does what the entrypoint of Multus does at each start; with arguments, this file is that entrypoint. It installs
this file as the plugin, which runs alone: it imports the standard library only. What it reproduces of
k8snetworkplumbingwg/multus-cni 4.3:

| behaviour | source |
|---|---|
| The master is the first `.conf` or `.conflist` by name, unless it begins with `00-multus` | docs/quickstart.md; findMasterPlugin in pkg/server/config/generator.go |
| The daemon ("thick") writes `00-multus.conf` of type `multus-shim`, with the master's path as `clusterNetwork` | docs/thick-plugin.md; pkg/server/config/manager.go |
| Without a daemon ("thin"), the master is copied into `delegates`; from version 1.0.0 on in a `00-multus.conflist` | cmd/thin_entrypoint/main.go |
| ADD runs the master with the runtime's CNI_IFNAME, and the n-th further network with `net<n>` | docs/how-to-use.md; getIfname in pkg/multus/multus.go |
| With a `kubeconfig`, the annotation `k8s.v1.cni.cncf.io/networks` of the pod names further networks: NetworkAttachmentDefinitions, whose `config` is a network | docs/how-to-use.md; GetPodNetwork in pkg/k8sclient/k8sclient.go |
| ADD fails if the interface exists in the pod. Its result is the master's | validateIfName, CmdAdd |
| After a failed ADD of a network, that network and all before it are deleted, the last first. The error has its text and not its code | CmdAdd, delPlugins |
| DEL uses the networks that ADD saved, else the configured ones, the last first. It continues after errors | CmdDel |
| CHECK checks each network; STATUS asks the master alone, and only from version 1.1.0 on | CmdCheck, CmdStatus |
| A list of plugins is run as by libcni, with a cache of results for CHECK and DEL | containernetworking/cni, libcni/api.go |

Further networks of all pods are the files in `defaultNetworks` (docs/configuration.md). Without an API, they stand for
NetworkAttachmentDefinitions. Capabilities, the annotation `network-status` and options of an attachment, such as
`name@interface`, are left out.

A master that is Multus again is called without end by the real one. Here, the third nested call fails.
"""  # noqa: E501  # one line per row

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

Json = dict[str, Any]

SHIM, THIN = "multus-shim", "multus"
NETWORK = "multus-cni-network"
ANNOTATION = "k8s.v1.cni.cncf.io/networks"
_DEPTH, _DEEPEST = "MULTUS_STAND_IN_DEPTH", 3
_ENDLESS = "multus is its own master"


class PluginError(Exception):
    """A plugin failed; the message is its own."""


def start(
    conf_dir: Path,
    bin_dir: Path,
    attachments: Sequence[Path] = (),
    *,
    thin: bool = False,
    kubeconfig: Path | None = None,
) -> Path:
    """Choose the master, install the plugin, and write its configuration, as at each start. Returns the file.

    `attachments`: files of further networks for every pod. `kubeconfig`: as JSON and with a token; None without an API.
    """
    master = choose_master(conf_dir)
    content = json.loads(master.read_text())
    plugin: Json = {"cniDir": str(bin_dir.parent / "multus"), "defaultNetworks": [str(path) for path in attachments]}
    plugin |= {"kubeconfig": str(kubeconfig)} if kubeconfig else {}
    head = {"cniVersion": content["cniVersion"], "name": NETWORK}
    name, config = "00-multus.conf", {**head, "type": SHIM, "clusterNetwork": str(master), **plugin}
    if thin:
        plugin = {"type": THIN, "delegates": [content], **plugin}
        as_list = content["cniVersion"] >= "1.0.0"
        name, config = ("00-multus.conflist", {**head, "plugins": [plugin]}) if as_list else (name, {**head, **plugin})
    program = bin_dir / (THIN if thin else SHIM)
    # -S: it needs no packages. That also sets it apart from Ratchet's launcher, which tests fork without a start.
    program.write_text(f"#!{sys.executable} -IS\n{Path(__file__).read_text()}")
    program.chmod(0o755)
    (conf_dir / name).write_text(json.dumps(config))
    return conf_dir / name


def choose_master(conf_dir: Path) -> Path:
    """The first network configuration by name that is not Multus's own."""
    found = [one for one in conf_dir.iterdir() if one.suffix in (".conf", ".conflist")]
    return min(one for one in found if not one.name.startswith("00-multus"))


def run_entrypoint() -> int:
    """Start, and print the name of the master's file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("conf_dir", type=Path)
    parser.add_argument("bin_dir", type=Path)
    parser.add_argument("--kubeconfig", type=Path)
    parser.add_argument("--thin", action="store_true")
    given = parser.parse_args()
    start(given.conf_dir, given.bin_dir, thin=given.thin, kubeconfig=given.kubeconfig)
    print(choose_master(given.conf_dir).name)
    return 0


def serve() -> int:
    """Serve a call of the runtime."""
    config, command = json.load(sys.stdin), os.environ["CNI_COMMAND"]
    try:
        depth = int(os.environ.get(_DEPTH, "0")) + 1
        if depth > _DEEPEST:
            raise PluginError(_ENDLESS)
        os.environ[_DEPTH] = str(depth)
        result = {"ADD": add, "DEL": delete, "CHECK": check, "STATUS": status}[command](config)
    except PluginError as error:
        print(json.dumps({"cniVersion": config["cniVersion"], "code": 100, "msg": f"Multus: {error}"}))
        return 1
    if result is not None:
        print(json.dumps(result))
    return 0


def add(config: Json) -> Json:
    networks = [*configured(config), *requested(config)]
    path = saved(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(networks))
    results = []
    for index, network in enumerate(networks):
        try:
            refuse_present(ifname_of(index))
            results.append(add_network(config, network, ifname_of(index)))
        except PluginError as error:
            with suppress(PluginError):
                delete_networks(config, networks[: index + 1])
            raise PluginError(f'error adding container to network "{network["name"]}": {error}') from error
    return results[0]


def delete(config: Json) -> None:
    path = saved(config)
    networks = json.loads(path.read_text()) if path.exists() else configured(config)
    path.unlink(missing_ok=True)
    delete_networks(config, networks)


def check(config: Json) -> None:
    for index, network in enumerate(configured(config)):
        cache = cached(config, network, ifname_of(index))
        previous = json.loads(cache.read_text()) if cache.exists() else None
        for plugin in plugins_of(network):
            call(plugin, network, "CHECK", ifname_of(index), previous)


def status(config: Json) -> None:
    master = configured(config)[0]
    if master["cniVersion"] >= "1.1.0":
        for plugin in plugins_of(master):
            call(plugin, master, "STATUS", None, None)


def configured(config: Json) -> list[Json]:
    """The networks of a pod, the master first. The master's file is read at each call."""
    path = config.get("clusterNetwork")
    first = [json.loads(Path(path).read_text())] if path else config["delegates"]
    return [*first, *(json.loads(Path(one).read_text()) for one in config["defaultNetworks"])]


def requested(config: Json) -> list[Json]:
    """The networks that the pod's annotation names, as `name` or `namespace/name`, in its order."""
    if "kubeconfig" not in config:
        return []
    arguments = dict(one.split("=", 1) for one in os.environ["CNI_ARGS"].split(";"))
    own = arguments["K8S_POD_NAMESPACE"]
    pod = get(config, f"/api/v1/namespaces/{own}/pods/{arguments['K8S_POD_NAME']}")
    names = pod["metadata"].get("annotations", {}).get(ANNOTATION, "")
    return [definition(config, own, name.strip()) for name in names.split(",") if name.strip()]


def definition(config: Json, own: str, name: str) -> Json:
    """The network of a NetworkAttachmentDefinition. `own`: the pod's namespace."""
    namespace, _, name = name.rpartition("/")
    folder = f"/apis/k8s.cni.cncf.io/v1/namespaces/{namespace or own}/network-attachment-definitions"
    return dict(json.loads(get(config, f"{folder}/{name}")["spec"]["config"]))


def get(config: Json, path: str) -> Json:
    """Read an object of the API."""
    # Imported here, because they take as long as the rest of a call.
    import ssl
    from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

    kubeconfig = json.loads(Path(config["kubeconfig"]).read_text())
    cluster, user = kubeconfig["clusters"][0]["cluster"], kubeconfig["users"][0]["user"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    request = Request(f"{cluster['server']}{path}", headers={"Authorization": f"Bearer {user['token']}"})
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=10) as response:
            return dict(json.load(response))
    except OSError as error:
        raise PluginError(f"cannot get {path}: {error}") from error


def plugins_of(network: Json) -> list[Json]:
    plugins: list[Json] = network.get("plugins") or [network]
    return plugins


def ifname_of(index: int) -> str:
    return f"net{index}" if index else os.environ["CNI_IFNAME"]


def saved(config: Json) -> Path:
    return Path(config["cniDir"], os.environ["CNI_CONTAINERID"])


def cached(config: Json, network: Json, ifname: str) -> Path:
    return Path(config["cniDir"], "results", f"{network['name']}-{os.environ['CNI_CONTAINERID']}-{ifname}")


def refuse_present(ifname: str) -> None:
    command = ["nsenter", f"--net={os.environ['CNI_NETNS']}", "ip", "link", "show", "dev", ifname]
    if subprocess.run(command, capture_output=True, check=False).returncode == 0:
        raise PluginError(f"interface name {ifname} already exists")


def add_network(config: Json, network: Json, ifname: str) -> Json:
    result: Json | None = None
    for plugin in plugins_of(network):
        result = call(plugin, network, "ADD", ifname, result)
    path = cached(config, network, ifname)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    return result or {}


def delete_networks(config: Json, networks: Sequence[Json]) -> None:
    errors = []
    for index, network in reversed(list(enumerate(networks))):
        try:
            delete_network(config, network, ifname_of(index))
        except PluginError as error:
            errors.append(str(error))
    if errors:
        raise PluginError(f"errors: {' / '.join(errors)}")


def delete_network(config: Json, network: Json, ifname: str) -> None:
    path = cached(config, network, ifname)
    previous = json.loads(path.read_text()) if path.exists() else None
    for plugin in reversed(plugins_of(network)):
        call(plugin, network, "DEL", ifname, previous)
    path.unlink(missing_ok=True)


def call(plugin: Json, network: Json, command: str, ifname: str | None, previous: Json | None) -> Json | None:
    """Call a plugin of a network, as libcni does. Returns its result."""
    head = {"name": network["name"], "cniVersion": network["cniVersion"]}
    config = {**plugin, **head, **({} if previous is None else {"prevResult": previous})}
    variables = {"CNI_COMMAND": command, **({} if ifname is None else {"CNI_IFNAME": ifname})}
    done = subprocess.run(
        [find(plugin["type"], os.environ["CNI_PATH"].split(":"))],
        input=json.dumps(config).encode(),
        env={**os.environ, **variables},
        capture_output=True,
        check=False,
    )
    sys.stderr.buffer.write(done.stderr)
    if done.returncode:
        raise PluginError(json.loads(done.stdout)["msg"] if done.stdout else f"netplugin failed: {plugin['type']}")
    return dict(json.loads(done.stdout)) if done.stdout.strip() else None


def find(plugin: str, folders: Iterable[str]) -> Path:
    for folder in folders:
        if (path := Path(folder, plugin)).exists():
            return path
    raise PluginError(f'failed to find plugin "{plugin}"')


if __name__ == "__main__":
    sys.exit(run_entrypoint() if len(sys.argv) > 1 else serve())
