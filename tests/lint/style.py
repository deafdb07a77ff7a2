#!/usr/bin/env python3
"""What machines can hold of the style: formatting, sizes, licences, no registry or machine path in the tree, clang-tidy (with --tidy, as make check does)."""

import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MAX_FILE_LINES = 1000
MAX_FUNCTION_LINES = 100


def tracked(*patterns):
    out = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for path in out.splitlines() if os.path.isfile(os.path.join(ROOT, path))]


def check_format():
    files = tracked("*.c", "*.h")
    done = subprocess.run(["clang-format", "--dry-run", "--Werror", *files], cwd=ROOT, capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if "error:" in line][:20]


def check_licences():
    for path in tracked("*.c", "*.h", "*.proto"):
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            if "SPDX-License-Identifier: MIT" not in file.read(200):
                yield f"{path}: no SPDX line"


def check_sizes():
    for path in tracked("src/*.c"):
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            lines = file.read().splitlines()
        if len(lines) > MAX_FILE_LINES:
            yield f"{path}: {len(lines)} lines; does it still hold one thing?"
        start = None
        for number, line in enumerate(lines, 1):
            if line == "{":
                start = number
            elif line == "}" and start:
                if number - start > MAX_FUNCTION_LINES:
                    yield f"{path}:{start}: a function of {number - start} lines"
                start = None


def check_words():
    """Mirrors are derived from the machine's configuration, never written down."""
    hosts = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True, check=False).stdout
    words = {match.group(1) for match in re.finditer(r"^[a-z]+://([^/]+)/", hosts, re.M)}
    for word in words:
        done = subprocess.run(["git", "grep", "-nIF", "--untracked", "-e", word], cwd=ROOT, capture_output=True, text=True, check=False)
        yield from (f"{line}: a registry's host" for line in done.stdout.splitlines()[:5])


def main():
    checks = [("clang-format", check_format), ("every source has its licence", check_licences), ("files and functions fit a screen or a thought", check_sizes),
              ("no registry's host in the tree", check_words)]
    failed = 0
    for number, (name, check) in enumerate(checks, 1):
        found = list(check())
        for line in found:
            print(f"# {line}")
        failed += bool(found)
        print(f"{'not ok' if found else 'ok'} {number} - {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
