# SPDX-License-Identifier: MIT
"""The configuration of a network namespace as data, without what changes by itself: to be taken before and after something that has to leave no trace.

Links, addresses, routes, rules, neighbours and forwarding entries that somebody entered, nftables. Not in it: counters, times, indexes, what was learned.
"""

import json
import shutil

from commands import call

# Of `ip -details -json link`: the rest are counters, indexes, offload sizes, and what follows from these.
LINK_MEMBERS = ("ifname", "flags", "mtu", "master", "address", "broadcast", "ifalias", "link_netnsid", "operstate")
LINK_DATA = ("info_kind", "info_data", "info_slave_kind", "info_slave_data")
DATA_VOLATILE = ("timer", "root_id", "bridge_id", "designated_", "hello_", "topology_change", "gc_", "no", "id", "message_age", "max_age", "forward_delay_timer")
ADDRESS_MEMBERS = ("family", "local", "prefixlen", "broadcast", "scope", "label", "address")
ROUTE_VOLATILE = ("used", "expires", "cache", "error")
NFT_VOLATILE = ("handle", "packets", "bytes", "index")


def _ip(netns, *argv):
    return json.loads(call("ip", "-netns", netns, "-json", *argv) or "[]")


def _without(value, names):
    if isinstance(value, dict):
        return {key: _without(member, names) for key, member in value.items() if key not in names}
    return [_without(member, names) for member in value] if isinstance(value, list) else value


def _sorted(items):
    return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))


def _link(link):
    info = link.get("linkinfo", {})
    data = {kind: {key: value for key, value in info[kind].items() if not key.startswith(DATA_VOLATILE)} if isinstance(info[kind], dict) else info[kind] for kind in LINK_DATA if kind in info}
    return {**{key: link[key] for key in LINK_MEMBERS if key in link}, "flags": sorted(link.get("flags", [])), **data}


def _nft(netns):
    if not shutil.which("nft"):
        return []
    # nft has no option for a namespace
    listed = json.loads(call("nsenter", f"--net=/run/netns/{netns}", "--", "nft", "-j", "list", "ruleset") or "{}").get("nftables", [])
    return [_without(entry, NFT_VOLATILE) for entry in listed if "metainfo" not in entry]


def take(netns):
    """All lists are sorted, but nft's: there the order has a meaning."""
    links = [link for link in _ip(netns, "-details", "link") if link]
    addresses = [{"dev": link["ifname"], **{key: address[key] for key in ADDRESS_MEMBERS if key in address}} for link in _ip(netns, "address") if link for address in link.get("addr_info", [])]
    fdb = json.loads(call("bridge", "-netns", netns, "-json", "fdb", "show") or "[]")
    return {
        "links": _sorted(_link(link) for link in links),
        "addresses": _sorted(addresses),
        "routes": _sorted(_without(route, ROUTE_VOLATILE) for family in ("-4", "-6") for route in _ip(netns, family, "route", "show", "table", "all")),
        "rules": _sorted(_without(rule, ()) for family in ("-4", "-6") for rule in _ip(netns, family, "rule", "show")),
        "neighbours": _sorted(_without(entry, ("used", "probes", "refcnt")) for family in ("-4", "-6") for entry in _ip(netns, family, "neighbour", "show", "nud", "permanent")),
        "fdb": _sorted({key: entry[key] for key in ("mac", "ifname", "master", "dst", "flags", "state", "vlan") if key in entry} for entry in fdb if entry.get("state") in ("static", "permanent")),
        "nft": _nft(netns),
    }


def _differences(path, before, after):
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            yield from _differences(f"{path} {key}".strip(), before.get(key), after.get(key))
    elif isinstance(before, list) and isinstance(after, list):
        for sign, these, those in (("-", before, after), ("+", after, before)):
            rest = list(those)
            for item in these:
                if item in rest:
                    rest.remove(item)
                else:
                    yield f"{path}: {sign} {item if isinstance(item, str) else json.dumps(item, sort_keys=True)}"
        if sorted(map(str, before)) == sorted(map(str, after)):
            yield f"{path}: another order"
    else:
        yield f"{path}: {before} -> {after}"


def compare(before, after):
    """What differs, one line each: "src routes: - {…}" was there before, "+" is there now. Empty: nothing."""
    return list(_differences("", before, after))


__all__ = ["compare", "take"]
