#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What the Resource Monitor costs: real control groups with a process each, sampled as an agent does. Fails when 100 containers at the default period cost half a percent of a core or more."""

import argparse
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAM = os.path.join(os.path.abspath(os.environ.get("BUILD") or os.path.join(ROOT, "build")), "tests", "unit", "monitor-cost")
LIMIT_CORE_PERCENT = 0.5


def measure(groups, seconds, period_ms, *options):
    done = subprocess.run([PROGRAM, str(groups), str(seconds), str(period_ms), *options], capture_output=True, text=True, timeout=seconds + 120, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr.strip() or f"{PROGRAM}: exit {done.returncode}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=30)
    options = parser.parse_args()
    print(f"{'containers':>10} {'period':>8} {'dirty':>6} {'core':>8} {'a sample':>10} {'longest':>10} {'reads':>6}")
    over = False
    for groups, period_ms, dirty in ((100, 1000, True), (100, 1000, False), (10, 1000, True), (100, 200, True)):
        found = measure(groups, options.seconds, period_ms, *([] if dirty else ["no-dirty"]))
        print(f"{groups:>10} {period_ms:>5} ms {'yes' if dirty else 'no':>6} {found['core_percent']:>6.3f} % {found['sample_us']:>7.0f} us {found['longest_sample_us']:>7} us {found['reads_a_sample']:>6.0f}", flush=True)
        over = over or (groups == 100 and period_ms == 1000 and found["core_percent"] >= LIMIT_CORE_PERCENT)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
