#!/usr/bin/env python3
"""clang-tidy over src/, with the compile commands of the plain build; as many at a time as there are processors.

What it was silent about is not analysed again while nothing it depends on has changed: clang-tidy, its configuration, the command, the source and every header, whose list is the build's. Those are the files of
$BUILD/tidy-silent, named after a digest of all of that.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
SILENT = os.path.join(BUILD, "tidy-silent")
TIDY = ["clang-tidy", "-p", BUILD, "--quiet"]


@lru_cache(maxsize=None)
def digest_of(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).digest()


def dependencies():
    """{object: [file]}, of those whose list is up to date."""
    found, files = {}, None
    for line in subprocess.run(["ninja", "-C", BUILD, "-t", "deps"], capture_output=True, text=True, check=False).stdout.splitlines():
        head = re.match(r"(\S+): #deps \d+, deps mtime \d+ \((VALID|STALE)\)", line)
        if head:
            files = found.setdefault(head.group(1), []) if head.group(2) == "VALID" else None
        elif files is not None and line.startswith("    "):
            files.append(os.path.join(BUILD, line.strip()))
    return found


def key(entry, files, version):
    """None: it cannot be known what it depends on."""
    if not files:
        return None
    digest = hashlib.sha256("\0".join([version, entry["command"], *TIDY]).encode())
    try:
        for path in (os.path.join(ROOT, ".clang-tidy"), os.path.join(BUILD, entry["file"]), *files):
            digest.update(path.encode() + b"\0" + digest_of(path))
    except OSError:
        return None
    return digest.hexdigest()


def tidy(path):
    done = subprocess.run([*TIDY, path], cwd=ROOT, capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if "warning:" in line or "error:" in line] or [f"{path}: error: clang-tidy ended with {done.returncode}"] if done.returncode else []


def main():
    with open(os.path.join(BUILD, "compile_commands.json"), encoding="utf-8") as file:
        entries = {os.path.normpath(os.path.join(entry["directory"], entry["file"])): entry for entry in json.load(file)}
    sources = [path for path in entries if path.startswith(os.path.join(ROOT, "src") + os.sep)]
    version = subprocess.run(["clang-tidy", "--version"], capture_output=True, text=True, check=True).stdout
    headers = dependencies()
    keys = {path: key(entries[path], headers.get(entries[path].get("output")), version) for path in sources}
    os.makedirs(SILENT, exist_ok=True)
    known = set(os.listdir(SILENT))
    # the largest first: none is left over at the end
    changed = sorted((path for path in sources if keys[path] not in known), key=os.path.getsize, reverse=True)
    found = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, lines in zip(changed, pool.map(tidy, changed)):
            found += lines
            if not lines and keys[path]:
                with open(os.path.join(SILENT, keys[path]), "w", encoding="utf-8"):
                    pass
    for old in known - set(keys.values()):
        os.unlink(os.path.join(SILENT, old))
    for line in sorted(found)[:40]:
        print(f"# {os.path.relpath(line, ROOT) if line.startswith('/') else line}")
    print(f"{'not ok' if found or not sources else 'ok'} 1 - clang-tidy is silent about {len(sources)} sources" + (f" ({len(changed)} new or changed)" if len(changed) < len(sources) else ""))
    return 1 if found or not sources else 0


if __name__ == "__main__":
    sys.exit(main())
