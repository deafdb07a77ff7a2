#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The redirection driver "dns" (src/network/redirect-dns.c, by redirect-probe) against a real knot and a real BIND. Prints TAP. What dns.h does below it is tests/integration/test_dns.py's."""

import base64
import contextlib
import json
import os
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "tests", "e2e")]
from redirect_probe import Redirect, Skip, Tap, expect, own_network, same  # noqa: E402
from test_dns import KEY, REVERSE, SECRET, ZONE, Bind, Knot, Module, Responder  # noqa: E402

WEB = "web." + ZONE
OLD, NEW = "10.77.0.1", "10.77.0.200"
OLD_PTR, NEW_PTR = "1.0." + REVERSE, "200.0." + REVERSE
BEFORE = {("web", "A"): [(3600, OLD)], (OLD_PTR, "PTR"): [(3600, WEB + ".")], (NEW_PTR, "PTR"): []}
AFTER = {("web", "A"): [(3600, NEW)], (OLD_PTR, "PTR"): [], (NEW_PTR, "PTR"): [(3600, WEB + ".")]}


class Lab:
    def __init__(self, folder, server):
        self.module, self.server = Module(folder), server

    def move(self, **members):
        action = {"driver": "dns", "server": f"127.0.0.1:{self.server.port}", "zone": ZONE, "reverse_zone": REVERSE, "key": KEY, "algorithm": "hmac-sha256", "key_file": "secret", "name": WEB,
                  "from": OLD, "to": NEW, "ttl_s": 5, "reverse": True}
        return Redirect(self.module.folder, {key: value for key, value in (action | members).items() if value is not None})

    def records(self):
        return {(name, kind): self.server.dig(name if "." in name else f"{name}.{ZONE}", kind) for name, kind in BEFORE}

    @contextlib.contextmanager
    def unchanged(self):
        before = self.records()
        yield
        same(self.records(), before)


def forward(line):
    """The change of which this is the undo"""
    undo = json.loads(line)
    return json.dumps(undo | {"from": undo["to"], "to": undo["from"]}, separators=(",", ":"))


def case_move(lab):
    r = lab.move()
    with lab.unchanged():
        r.good("prepare")
        same(r.undo["caches_hold_s"], 3600)
        same(len(r.undo["lines"]), 5)
        expect(SECRET not in json.dumps(r.undo), "the secret is in the undo")
        r.bad("verify", "FAILED_PRECONDITION", f"is web.{ZONE} with 3600 s to live, not absent")
    r.good("open", "open")
    same(lab.records(), BEFORE | {("web", "A"): [(5, OLD)]})
    r.good("flip", "flip", "verify")
    same(lab.records(), AFTER)
    r.good("open")  # by a process that does not know
    same(lab.records(), AFTER)
    r.good("revert", "revert")
    same(lab.records(), BEFORE)
    r.bad("verify", "FAILED_PRECONDITION", "not absent")


def case_prefixes(lab):
    """Died after any of the changes, also within flip: revert leads back, flip leads on."""
    r = lab.move().good("prepare")
    for step, end in (("revert", BEFORE), ("flip", AFTER)):
        for n in range(len(r.undo["lines"]) + 1):
            for line in r.undo["lines"][:n]:
                lab.module.apply(lab.server.port, forward(line))
            r.good(step)
            same(lab.records(), end)
            r.good("revert")
            same(lab.records(), BEFORE)


def case_reverting_dies(lab):
    """Reverting that stops in the middle is gone on with, or flipped after all."""
    r = lab.move().good("prepare")
    for n in range(len(r.undo["lines"]) + 1):
        r.good("open", "flip")
        for line in list(reversed(r.undo["lines"]))[:n]:
            lab.module.apply(lab.server.port, line)
        r.good("flip" if n % 2 else "revert", "revert")
        same(lab.records(), BEFORE)


def case_keys(lab):
    """Found in prepare: nothing has been touched, and nothing will be."""
    m = lab.module
    m.file("wrong", base64.b64encode(b"another secret of 32 bytes......").decode())
    m.file("readable", SECRET, mode=0o644)
    with lab.unchanged():
        lab.move(key_file="wrong").bad("prepare", "UNAUTHENTICATED", f"BADSIG: the server has the key '{KEY}'")
        lab.move(key="stranger." + ZONE).bad("prepare", "UNAUTHENTICATED", "BADKEY")
        lab.move(algorithm="hmac-sha512").bad("prepare", "UNAUTHENTICATED", "NOTAUTH")
        # a key that may ask, but not update: only a rehearsed update finds that out
        lab.move(key="reader." + ZONE, algorithm="hmac-sha512").bad("prepare", *lab.server.no_right)
        lab.move(key_file="readable").bad("prepare", "PERMISSION_DENIED", "chmod 600")
        lab.move(key_file="nothing").bad("prepare", "NOT_FOUND", "nothing")
        lab.move(zone="other.test", name="web.other.test", reverse=None).bad("prepare", "PERMISSION_DENIED", "REFUSED")


def case_somebody_else(lab):
    s, r = lab.server, lab.move().good("prepare", "open")
    gone = f"update delete {WEB} A"
    for change, words in (((f"update add {WEB} 5 A 10.77.0.66",), "and more"), ((gone, f"update add {WEB} 77 A {OLD}"), "77 s to live"), ((gone, f"update add {WEB} 5 A 10.77.0.67"), "10.77.0.67"), ((gone,), "absent")):
        s.somebody_else(*change)
        with lab.unchanged():
            for step in ("open", "flip", "revert"):
                r.bad(step, "ABORTED", words)
            r.bad("verify", "FAILED_PRECONDITION", "")
    s.somebody_else(f"update add {WEB} 5 A {OLD}")
    r.good("flip", "verify", "revert")
    same(lab.records(), BEFORE)
    # in the middle of a flip: the address has moved, somebody takes the new reverse name. Reverting restores what is ours and says what is not
    r.good("prepare", "open")
    lab.module.apply(s.port, forward(r.undo["lines"][1]))
    m, other = lab.module, f'{{"dns":1,"name":"{NEW_PTR}","type":"PTR","from":{{"value":"","ttl":0}},"to":{{"value":"other.{ZONE}","ttl":60}}}}'
    m.apply(s.port, other)
    r.bad("flip", "ABORTED", "other." + ZONE)
    same(lab.records()[("web", "A")], [(5, NEW)])
    r.bad("revert", "ABORTED", "other." + ZONE)
    m.apply(s.port, forward(other))
    r.good("revert")
    same(lab.records(), BEFORE)


def case_reverse(lab):
    """Reverse records that are missing, there already, or somebody's."""
    s, m = lab.server, lab.module
    with lab.unchanged():
        lab.move(to="10.78.0.1").bad("prepare", "INVALID_ARGUMENT", "not in the zone")
    without = lab.move(reverse=False, reverse_zone=None)
    without.good("prepare", "open", "flip", "verify")
    same(lab.records(), BEFORE | {("web", "A"): [(3600, NEW)]})
    without.good("revert")
    lone = lab.move(name="ttl." + ZONE, **{"from": "10.77.0.9"}).good("prepare", "open", "flip", "verify")  # had no reverse record
    same((s.dig("ttl." + ZONE, "A"), s.dig(NEW_PTR, "PTR")), ([(7200, NEW)], [(7200, f"ttl.{ZONE}.")]))
    with lab.unchanged():
        lab.move().bad("prepare", "ABORTED", f"it is ttl.{ZONE}")
    lone.good("revert")
    same((s.dig("ttl." + ZONE, "A"), lab.records()), ([(7200, "10.77.0.9")], BEFORE))
    ready = f'{{"dns":1,"name":"{NEW_PTR}","type":"PTR","from":{{"value":"","ttl":0}},"to":{{"value":"{WEB}","ttl":60}}}}'
    m.apply(s.port, ready)
    kept = lab.move().good("prepare", "open", "flip", "verify")
    same(lab.records(), AFTER | {(NEW_PTR, "PTR"): [(60, WEB + ".")]})
    kept.good("revert")
    same(lab.records(), BEFORE | {(NEW_PTR, "PTR"): [(60, WEB + ".")]})  # it was not ours
    m.apply(s.port, forward(ready))


def case_time_to_live(lab):
    """Lowered, never raised; none is lowered when it is low enough already."""
    r = lab.move(ttl_s=7200, reverse=False).good("prepare")
    same(len(r.undo["lines"]), 1)
    with lab.unchanged():
        r.good("open")
    r.good("flip", "verify")
    same(lab.records()[("web", "A")], [(3600, NEW)])
    r.good("revert")
    for asked, lowered in ((None, 1), (0, 0)):
        r = lab.move(ttl_s=asked, reverse=False).good("prepare", "open")
        same(lab.records()[("web", "A")], [(lowered, OLD)])
        r.good("revert")
        same(lab.records(), BEFORE)


def case_same_address(lab):
    with lab.unchanged():
        r = lab.move(to=OLD).good("prepare", "open", "flip", "verify", "revert")
        same(r.undo, {"lines": [], "caches_hold_s": 0})
        lab.move(**{"from": NEW}).bad("prepare", "ABORTED", f"it is {OLD}, not {NEW}")
    lab.server.somebody_else(f"update delete {WEB} A", f"update add {WEB} 3600 A 10.77.0.66")
    r.bad("verify", "FAILED_PRECONDITION", "10.77.0.66")
    lab.server.somebody_else(f"update delete {WEB} A", f"update add {WEB} 3600 A {OLD}")


def case_ipv6(lab):
    name = "web6." + ZONE
    r = lab.move(name=name.upper() + ".", reverse=None, **{"from": "FD00:0::1", "to": "fd00::00:2"}).good("prepare", "open", "flip", "verify")
    same(lab.server.dig(name, "AAAA"), [(3600, "fd00::2")])
    r.good("revert")
    same(lab.server.dig(name, "AAAA"), [(3600, "fd00::1")])


def case_no_single_record(lab):
    with lab.unchanged():
        lab.move(name="two." + ZONE).bad("prepare", "ABORTED", "and 1 more")
        lab.move(name="alias." + ZONE).bad("prepare", "FAILED_PRECONDITION", "alias")
        lab.move(name="nobody." + ZONE).bad("prepare", "ABORTED", "absent")


def case_members(lab):
    lab.move().wrong_members([("zone", None, "missing"), ("server", None, "missing"), ("key", None, "missing"), ("key_file", None, "missing"), ("key_file", "../secret", "'/'"), ("key_file", ".", "begins"),
                              ("key_file", "x" * 65, "bytes"), ("from", "10.77.0", "not an address"), ("to", "fd00::1", "not an address"), ("ttl_s", -1, "whole number"), ("ttl_s", 1 << 31, "whole number"),
                              ("ttl_s", "5", "whole number"), ("reverse", "yes", "neither"), ("reverse_zone", None, "needs it"), ("name", "a b", "name of a host"), ("secret", "x", "not a member")])
    r = lab.move().good("prepare")
    line = r.undo["lines"][1]
    for undo in ({}, {"lines": "x"}, {"lines": [1]}, {"lines": [line[:-1]]}, {"lines": [line.replace("web", "ttl")]}, {"lines": [line] * 6}, r.undo | {"more": 1}):
        for step in ("open", "flip", "verify", "revert"):
            r.bad(step, "DATA_LOSS", "undo", undo=undo)


def case_cancelled(lab):
    with Responder(lambda *_: None) as silent:
        lab.move(server=f"127.0.0.1:{silent.port}").bad("prepare", "DEADLINE_EXCEEDED", "no answer", timeout_ms=500)
        silent.arrived.clear()
        lab.move(server=f"127.0.0.1:{silent.port}").cancelled("prepare", silent.arrived)


CASES = [
    ("lowered, moved, restored, reverted exactly", case_move), ("from every state in between, back and on", case_prefixes), ("reverting that dies", case_reverting_dies), ("a wrong key is found in prepare", case_keys),
    ("somebody else's change is left alone", case_somebody_else), ("reverse records", case_reverse), ("time to live", case_time_to_live), ("the address stays", case_same_address), ("AAAA", case_ipv6),
    ("no record, or not one", case_no_single_record), ("members of the action and the undo", case_members), ("a server that hangs; cancelled", case_cancelled),
]


def server_tests(tap, server_type, folder, port):
    name = server_type.__name__
    if not all(os.path.exists(each) for each in (server_type.program, "/usr/bin/nsupdate")):
        with tap.test(f"{name}: all of it"):
            raise Skip(f"not installed: {server_type.package} or bind9-dnsutils")
        return
    with contextlib.ExitStack() as stack:
        lab = None
        with tap.test(f"{name}: starts"):
            server = server_type(folder, port)
            stack.callback(server.stop)
            lab = Lab(folder, server)
        for title, case in CASES if lab else []:
            with tap.test(f"{name}: {title}"):
                case(lab)


def main():
    tap = Tap("redirect-dns", True)
    reason = own_network()
    if reason:
        with tap.test("redirection by name"):
            raise Skip(reason)
        return tap.end()
    folder = tempfile.mkdtemp(prefix="fm-test-redirect-dns-")
    try:
        for number, server_type in enumerate((Knot, Bind)):
            server_tests(tap, server_type, folder, 5301 + number)
    finally:
        shutil.rmtree(folder)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
