#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""In the guest: does CRIU's dump, the part of the freeze that is not ours, grow with the container's memory on this kernel? And what doctor says of the kernel."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "e2e"))
from common import Cluster, Tap, arguments, check_pages, clean_case, conclude, expect, lab_name, pages_resident, unwind_on_signal  # noqa: E402

SMALL_MB, LARGE_MB = 16, 256
MOVES = 3          # each way; the fastest dump counts, since only noise makes one slower
FACTOR_MAX = 2     # 16 times the memory
HIDDEN = ("post-copy", "live")


def dump_ms(cluster, megabytes, strategy):
    """Of the fastest of these moves."""
    resident = pages_resident(cluster, f"pages-{megabytes}-{strategy}", megabytes)
    found = []
    for number in range(MOVES):
        to = ("dst", "src")[number % 2]
        record = cluster.migrate(resident.name, to, "--strategy", strategy)
        expect(record["path"] == "1N 2N 3N 4N 5N 6N", lambda: f"{strategy} to {to}: path {record['path']}: {record['error_message']}")  # pylint: disable=cell-var-from-loop
        found.append(next(phase["duration_us"] for phase in record["phases"] if phase["name"] == "dump") / 1000)
        check_pages(resident)
    resident.conclude(to)
    return min(found)


def main():
    options = arguments(__doc__)
    unwind_on_signal()
    tap, name = Tap("freeze", options.tap), lab_name("freeze")
    with Cluster(name, keep_on_failure=options.keep) as cluster:
        for finding in cluster.doctor("src"):
            if finding["subject"].startswith(("criu", "tracking", "hidden")):
                tap.say(f"doctor: {finding['severity']} {finding['subject']}: {finding['detail']}")
        for strategy in HIDDEN:
            with clean_case(cluster, tap, options, f"{strategy}: the dump of {LARGE_MB} MB takes as long as that of {SMALL_MB} MB") as wanted:
                if wanted:
                    small, large = (dump_ms(cluster, megabytes, strategy) for megabytes in (SMALL_MB, LARGE_MB))
                    tap.say(f"{strategy}: dump of {SMALL_MB} MB {small:.0f} ms, of {LARGE_MB} MB {large:.0f} ms: factor {large / small:.2f}")
                    expect(large <= small * FACTOR_MAX, f"{large:.0f} ms, of {SMALL_MB} MB {small:.0f} ms")
    return conclude(tap, name)


if __name__ == "__main__":
    sys.exit(main())
