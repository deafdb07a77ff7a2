#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""In the guest: runs the programs of plan.json one after the other. Everything that they print goes to the host, between two lines that say whose it is."""

import json
import os
import platform
import signal
import subprocess
import sys
import time

PLAN = "/fleximigrate/plan.json"
MARK = "@vm"


def tell(word, **fields):
    print(f"\n{MARK} {word} {json.dumps(fields)}", flush=True)


def run(step):
    started = time.monotonic()
    tell("begin", name=step["name"])
    environment = dict(os.environ, **step["env"])
    with subprocess.Popen(step["argv"], stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, env=environment, start_new_session=True) as process:
        try:
            code = process.wait(step["seconds_max"])
        except subprocess.TimeoutExpired:
            print(f"{step['name']}: not within {step['seconds_max']} s", flush=True)
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
    tell("end", name=step["name"], code=code, seconds=round(time.monotonic() - started, 1))


def main():
    with open(PLAN, encoding="utf-8") as file:
        steps = json.load(file)
    tell("up", kernel=platform.release(), boot_seconds=round(time.clock_gettime(time.CLOCK_BOOTTIME), 1))
    for step in steps:
        run(step)
    tell("done")


if __name__ == "__main__":
    sys.exit(main())
