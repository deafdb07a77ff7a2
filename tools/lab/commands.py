# SPDX-License-Identifier: MIT
"""What the modules of the lab share: running configuration commands, waiting, errors."""

import os
import subprocess
import time

NETNS = "/run/netns"
# How much longer everything that has a limit may take here: an emulated machine is 10 to 20 times slower.
STRETCH = float(os.environ.get("FLEXIMIGRATE_TEST_STRETCH") or 1)


class LabError(Exception):
    """What was asked, what went wrong, and what to do."""


class LeftoverError(LabError):
    """The lab is down, but processes still live in its namespaces."""


def call(*argv, stdin=None, env=None, group="run"):
    """Run a configuration command and return what it printed. group: of tools/setup/packages.txt, which has it."""
    try:
        done = subprocess.run(argv, input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, text=True, capture_output=True, check=False, env=env)
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is missing: run tools/setup/install-packages.sh --group {group}") from error
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip() or done.returncode}")
    return done.stdout


def wait(what, condition, seconds_max):
    deadline = time.monotonic() + seconds_max * STRETCH
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {seconds_max} s")
        time.sleep(0.005)


__all__ = ["LabError", "LeftoverError", "NETNS", "STRETCH", "call", "wait"]
