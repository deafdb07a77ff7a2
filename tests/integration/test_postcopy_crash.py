#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What test_stock_postcopy.py does to stock CRIU, done to our agents: in the middle of a post-copy (1) the destination's agent, which is the fault server, is killed, (2) the link to the source is cut.
Prints TAP.

The same program, which knows what is in its pages. Not one may read as zeros, no second copy may run, and the migration says that it is PAUSED, why, and how many pages are missing; when the agent or the link
is back, it goes on by itself and is COMPLETED.
"""

import contextlib
import os
import re
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "e2e"))
from chaos import copies_of  # noqa: E402
from common import PAGES, Cluster, Skip, Tap, check_pages, conclude, expect, expect_lines, lab_name, mend, no_leftovers, pages_resident, unwind_on_signal  # noqa: E402

MEGABYTES = 64
RATE = "80mbit"  # some seven seconds for the pages
HOLD_S = 2       # of being watched in a pause
PAUSED = r"WARN \[StateSynchronizer\]: Fetching the pages of '{name}' is PAUSED: [0-9]+ pages are missing on 'dst', and .+\. It goes on by itself\."
GOES_ON = r"INFO \[StateSynchronizer\]: Fetching the pages of '{name}' goes on after [0-9.]+ s of pause\."


def copies(cluster, name):
    """[(host, state letter)] of the program's processes."""
    return sorted((host, state) for host, processes in copies_of(cluster, name).items() for _, command, state in processes if command == "pages" and state not in "ZX")


def one_copy_runs(cluster, name):
    """The source's copy is stopped, the destination's is not."""
    found = copies(cluster, name)
    expect([host for host, _ in found] == ["dst", "src"] and found[0][1] not in "Tt" and found[1][1] in "Tt", f"copies: {found}, expected one on dst, and one on src that is stopped")


class Case:
    def __init__(self, cluster, name):
        self.cluster, self.name = cluster, name
        self.resident = pages_resident(cluster, name, MEGABYTES)
        check_pages(self.resident)
        cluster.lab.shape("src", RATE)
        self.migration = cluster.start_migration(name, "dst", "--strategy", "post-copy")
        cluster.wait("pages arrive", lambda: 0 < self.record()["pages_done"] < self.record()["pages_total"], 60)

    def record(self):
        return self.cluster.migration(self.migration)

    def paused(self, reason):
        """It comes to a pause for that reason, and stays in it."""
        self.cluster.wait("the migration is PAUSED", lambda: self.record()["sub_state"] == "PAUSED", 40)
        self.cluster.wait(f"the pause's reason: {reason}", lambda: re.search(reason, self.record().get("pause", {}).get("reason", "")), 40, lambda: str(self.record()))
        first = self.record()
        deadline = time.monotonic() + HOLD_S
        while time.monotonic() < deadline:
            record = self.record()
            expect(record["sub_state"] == "PAUSED" and record["state"] in ("EXECUTION", "VERIFICATION"), f"it is {record['state']} {record['sub_state']}")
            one_copy_runs(self.cluster, self.name)
        expect(record["pause"]["pages_missing"] == first["pause"]["pages_missing"] > 0, f"pages missing: {first['pause']}, then {record['pause']}")
        expect(record["pause"]["since_unix_ms"] == first["pause"]["since_unix_ms"] > first["created_unix_ms"], f"since: {first['pause']}, then {record['pause']}")
        shown = self.cluster.cli("migration", "show", self.migration).stdout
        expect(re.search(r"^  pause +PAUSED for \d+ s: pages are missing \(\d+\), and .+; it ends by itself", shown, re.M), f"shown: {shown}")
        expect("(PAUSED)" in self.cluster.cli("migration", "ls").stdout, "the list does not say so")
        return record

    def goes_on(self):
        self.cluster.wait("the pause is over", lambda: self.record()["sub_state"] == "", 60)
        record, lines = self.cluster.wait_over(self.migration)
        expect(record["path"] == "1N 2N 3N 4N 5N 6N", f"path {record['path']}: {record['error_message']}")
        expect(record["sub_state"] == "" and "pause" not in record, f"it is still {record['sub_state']}")
        expect_lines(lines, [PAUSED.format(name=self.name), GOES_ON.format(name=self.name), ".* Final State: COMPLETED\\."])
        expect(sum("PAUSED" in line for line in lines) == 1 and sum("of pause" in line for line in lines) == 1, f"not once each: {lines}")
        self.cluster.lab.shape("src", None)
        found = check_pages(self.resident)
        expect([host for host, _ in copies(self.cluster, self.name)] == ["dst"], f"copies: {copies(self.cluster, self.name)}")
        no_leftovers(self.cluster)
        self.resident.conclude("dst")
        return found


def agent_killed(cluster, tap):
    with tap.test("the destination's agent is killed in the middle of a post-copy: pages wait, none is zero, one copy runs"):
        case = Case(cluster, "killed")
        cluster.agents["dst"].kill()
        record = case.paused("'dst' does not answer")
        cluster.agents["dst"].start()
        found = case.goes_on()
        tap.say(f"{record['pause']['pages_missing']} of {record['pages_total']} pages were missing when it died; afterwards {found['zero']} zero, {found['wrong']} wrong of {found['checked']} that were looked at")


def link_cut(cluster, tap):
    with tap.test("the link to the source is cut in the middle of a post-copy: pages wait, none is zero, one copy runs"):
        case = Case(cluster, "cut")
        cluster.lab.cut("src")
        record = case.paused("the connection to 'src' is down")
        cluster.lab.heal("src")
        found = case.goes_on()
        tap.say(f"{record['pause']['pages_missing']} of {record['pages_total']} pages were missing when it was cut; afterwards {found['zero']} zero, {found['wrong']} wrong of {found['checked']} that were looked at")


def main():
    unwind_on_signal()
    name = lab_name("pc")
    tap = Tap("post-copy crash", True)
    if os.geteuid() != 0 or not os.access(PAGES, os.X_OK):
        with tap.test("post-copy"):
            raise Skip("needs root" if os.geteuid() != 0 else f"{PAGES} is not built")
        return tap.end()
    with Cluster(name) as cluster:
        for test in (agent_killed, link_cut):
            test(cluster, tap)
            with contextlib.suppress(Exception):
                cluster.lab.shape("src", None)
                mend(cluster)
    return conclude(tap, name)


if __name__ == "__main__":
    sys.exit(main())
