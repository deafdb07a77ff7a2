#!/usr/bin/env python3
"""Includes go one way (ARCHITECTURE.md): a file includes only rooms below its own; the five siblings never include each other; decision/ includes basic/ only."""

import glob
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SIBLINGS = {"monitor", "container", "network", "sync", "store"}
BELOW = {
    "basic": set(), "loop": {"basic"}, "decision": {"basic"},
    **{room: {"basic", "loop"} for room in SIBLINGS},
    "migration": {"basic", "loop", "decision"} | SIBLINGS,
}
BELOW["rpc"] = BELOW["web"] = BELOW["migration"] | {"migration"}
BELOW["manager"] = BELOW["agent"] = BELOW["rpc"] | {"rpc", "web"}
BELOW["cli"] = BELOW["manager"] | {"manager", "agent"}  # the one binary dispatches to the daemons


def offences():
    for path in sorted(glob.glob(os.path.join(ROOT, "src", "*", "*.[ch]"))):
        room = os.path.basename(os.path.dirname(path))
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                match = re.match(r'\s*#\s*include\s+"([a-z]+)/', line)
                if match and match.group(1) != room and match.group(1) not in BELOW.get(room, set()):
                    yield f"{os.path.relpath(path, ROOT)}:{number}: {room}/ must not include {match.group(1)}/"
                if re.match(r'\s*#\s*include\s+<grpc', line) and not os.path.basename(path).startswith("grpc"):
                    yield f"{os.path.relpath(path, ROOT)}:{number}: gRPC's C core is used in src/rpc/grpc* only"
                if re.match(r'\s*#\s*include\s+<microhttpd', line) and room != "web":
                    yield f"{os.path.relpath(path, ROOT)}:{number}: libmicrohttpd is used in src/web/ only"


def main():
    found = list(offences())
    unknown = [room for room in os.listdir(os.path.join(ROOT, "src")) if os.path.isdir(os.path.join(ROOT, "src", room)) and room not in BELOW]
    found += [f"src/{room}: a room that ARCHITECTURE.md and this test do not know" for room in unknown]
    for line in found:
        print(f"# {line}")
    print(f"{'not ok' if found else 'ok'} 1 - includes go one way")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
