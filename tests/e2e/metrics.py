#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A real Prometheus scrapes the manager and the agents of a real cluster through migrations, and is asked what it has: examples/monitoring as it is, but for the addresses and the intervals.

Prometheus runs in the manager's host (a network namespace) on its loopback interface, with its data in the cluster's folder. The source's agent serves on its address, the destination's on its
loopback interface only.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse

from common import Cluster, Resident, Skip, Tap, arguments, conclude, expect, lab_name, no_leftovers, unwind_on_signal

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "lint"))
sys.dont_write_bytecode = True
from metrics import NAME, catalogue, expressions, series  # noqa: E402

EXAMPLES = os.path.join(ROOT, "examples", "monitoring")
MANAGER, AGENT_PORT, PROMETHEUS = "127.0.0.1:9401", 9402, "127.0.0.1:9090"
MANAGER_JOB = 'job="fleximigrate-manager"'


def promtool(text):
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False)
    expect(done.returncode == 0 and not (done.stdout + done.stderr).strip(), f"promtool check metrics: {done.returncode}: {done.stdout}{done.stderr}")


def get(cluster, host, url, check=True):
    """In that host: what is on its loopback interface is nowhere else."""
    script = "import sys, urllib.request, urllib.error\ntry:\n sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=30).read().decode())\n" \
             "except urllib.error.HTTPError as e:\n sys.stdout.write(e.read().decode()); sys.exit(1)"
    done = cluster.lab.run(host, [sys.executable, "-c", script, url], check=False, timeout=60)
    expect(done.returncode == 0 or not check, f"{url}: {done.stdout}{done.stderr}")
    return done.stdout if done.returncode == 0 or done.stdout else ""


class Prometheus:
    def __init__(self, cluster):
        self.cluster, folder = cluster, cluster.path("prometheus")
        os.makedirs(folder)
        for name in ("alerts.yaml", "prometheus.yml"):
            shutil.copy(os.path.join(EXAMPLES, name), folder)
        path = os.path.join(folder, "prometheus.yml")
        with open(path, encoding="utf-8") as file:
            config = file.read()
        for pattern, replacement in ((r"_interval: 15s", "_interval: 1s"), (r'\["127\.0\.0\.1:9401"\]', f'["{MANAGER}"]'), (r'\["10\.0\.0\.11:9402", "10\.0\.0\.12:9402"\]', f'["{cluster.lab.address("src")}:{AGENT_PORT}"]')):
            config, times = re.subn(pattern, replacement, config)
            expect(times > 0, f"prometheus.yml has no {pattern}")
        with open(path, "w", encoding="utf-8") as file:
            file.write(config)
        with open(cluster.path("prometheus.log"), "wb") as log:
            self.process = cluster.lab.popen("cli", ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address={PROMETHEUS}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def api(self, path, **parameters):
        answer = get(self.cluster, "cli", f"http://{PROMETHEUS}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", check=False)
        return json.loads(answer) if answer.startswith("{") else {"status": f"no answer: {answer}"}  # while it starts, it says so, in plain text

    def query(self, expression):
        """The vector's elements"""
        answer = self.api("query", query=expression)
        expect(answer["status"] == "success", f"{expression}: {answer}")
        return answer["data"]["result"]

    def number(self, expression):
        """Of one element; None: there is none"""
        result = self.query(expression)
        expect(len(result) < 2, f"{expression}: {result}")
        return float(result[0]["value"][1]) if result else None

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


def exposed(cluster, tap):
    places = {"manager": ("cli", MANAGER), "agent src": ("cli", f"{cluster.lab.address('src')}:{AGENT_PORT}"), "agent dst": ("dst", f"127.0.0.1:{AGENT_PORT}")}
    known = catalogue()
    with tap.test("promtool check metrics is content with the manager and both agents; each metric is in the catalogue"):
        for name, (host, address) in places.items():
            text = get(cluster, host, f"http://{address}/metrics")
            promtool(text)
            names = set(re.findall(r"^# TYPE (\S+) ", text, re.M))
            expect(names and names <= set(known), f"{name}: {names - set(known)}")
            samples = [line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")]
            expect(len(samples) == len(set(samples)), f"{name}: series twice: {[s for s in set(samples) if samples.count(s) > 1]}")


def migrated(cluster, prometheus, tap, counted):
    """One migration more; what Prometheus has of it is what its record says."""
    with tap.test("a migration's downtime, bytes and phases are in Prometheus as its record has them"):
        where = cluster.container("redis")["host"]
        record = cluster.migrate("redis", "dst" if where == "src" else "src", "--strategy", "live")
        expect(record["state"] == "COMPLETED", record["error_message"])
        record = cluster.migration(record["id"])
        counted.append(record)
        downtime = f'fleximigrate_migration_downtime_seconds_sum{{{MANAGER_JOB},strategy="live"}}'
        count = f'fleximigrate_migration_downtime_seconds_count{{{MANAGER_JOB},strategy="live"}}'
        cluster.wait("Prometheus has seen it", lambda: prometheus.number(count) == len(counted), 30, lambda: f"{count}: {prometheus.query(count)}")
        found, wanted = prometheus.number(downtime), sum(each["frozen_us"] for each in counted) / 1e6
        expect(abs(found - wanted) < 1e-6, f"downtime {found} s, records say {wanted} s")
        quantile = prometheus.number(f'histogram_quantile(1, sum by (le) (fleximigrate_migration_downtime_seconds_bucket{{{MANAGER_JOB},strategy="live"}}))')
        expect(quantile >= max(each["frozen_us"] for each in counted) / 1e6, f"the slowest took {quantile} s")
        found, wanted = prometheus.number(f'fleximigrate_migration_wire_bytes_total{{{MANAGER_JOB},strategy="live"}}'), sum(each["wire_bytes"] for each in counted)
        expect(found == wanted, f"{found} bytes, records say {wanted}")
        phases = {element["metric"]["phase"]: float(element["value"][1]) for element in prometheus.query(f"fleximigrate_migration_phase_duration_seconds_count{{{MANAGER_JOB}}} > 0")}
        names = [phase["name"] for each in counted for phase in each["phases"] if not phase["name"].startswith("fault-")]
        expect(phases == {name: names.count(name) for name in names}, f"phases {phases}, records have {names}")


def agents_see_it(cluster, prometheus, tap):
    with tap.test("the source's agent has counted it, too"):
        agent = 'job="fleximigrate-agent"'
        cluster.wait("Prometheus has the agent's moves", lambda: prometheus.number(f'fleximigrate_agent_moves_total{{{agent},role="source",decision="RELEASED"}}') == 1, 30)
        expect(prometheus.number(f'fleximigrate_agent_stream_bytes_total{{{agent},role="source"}}') > 0, "no bytes left it")
        expect(prometheus.number(f'fleximigrate_agent_rounds_total{{{agent}}}') > 0, "a live migration without rounds")
        expect(prometheus.number(f'fleximigrate_agent_connected{{{agent}}}') == 1, "it is not connected")
        cluster.wait("no journal is left", lambda: prometheus.number(f"fleximigrate_agent_journals{{{agent}}}") == 0, 30)


def refused(cluster, prometheus, tap):
    with tap.test("a migration that is refused is counted with its code"):
        record = cluster.migrate("redis", "nowhere")
        expect(record["state"] == "FAILED", record)
        failures = f'fleximigrate_migration_failures_total{{{MANAGER_JOB},code="NOT_FOUND"}}'
        cluster.wait("Prometheus has seen it", lambda: prometheus.number(failures) == 1, 30)


def fleet_is_there(cluster, prometheus, tap):
    with tap.test("hosts and containers are there as the command line has them"):
        hosts = {host["name"]: host for host in cluster.json("host", "ls")["hosts"]}
        up = {element["metric"]["host"]: element["value"][1] for element in prometheus.query(f"fleximigrate_host_up{{{MANAGER_JOB}}}")}
        expect(up == {name: "1" for name in hosts}, f"{up}, hosts {list(hosts)}")
        memory = prometheus.number(f'fleximigrate_host_memory_total_bytes{{{MANAGER_JOB},host="src"}}')
        expect(memory == hosts["src"]["memory_total_bytes"], f"{memory}, {hosts['src']}")
        where = cluster.container("redis")["host"]
        info = [element["metric"] for element in prometheus.query(f'fleximigrate_container_info{{{MANAGER_JOB},container="redis"}}')]
        expect([(each["host"], each["status"], each["kind"]) for each in info] == [(where, "running", "nested")], info)
        expect(prometheus.number(f'fleximigrate_container_resident_memory_bytes{{{MANAGER_JOB},container="redis"}}') > 1 << 20, "Redis without memory")


def as_grafana_asks(expression):
    """The dashboard's variables as Grafana would fill them in."""
    for name, value in (("$__rate_interval", "1m"), ("$__range", "1h"), ("$host", ".*"), ("$container", ".*")):
        expression = expression.replace(name, value)
    return expression


def dashboard_and_rules(prometheus, tap):
    with tap.test("Prometheus takes every expression of the dashboard, and knows the metrics in it"):
        with open(os.path.join(EXAMPLES, "dashboard.json"), encoding="utf-8") as file:
            asked = expressions(json.load(file))
        known, there = series(catalogue()), set(prometheus.api("label/__name__/values")["data"])
        empty = []
        for expression in map(as_grafana_asks, asked):
            expect("$" not in expression, f"a variable that is not known: {expression}")
            empty += [] if prometheus.query(expression) else [expression]
            names = set(NAME.findall(re.sub(r'"[^"]*"', "", expression)))
            expect(names <= known, f"{expression}: {names - known}")
            # Of what is measured of use an agent may know less than all; of everything else there is something in a cluster that has moved containers.
            measured = {name for name in names if re.search(r"_per_second$|_pressure_ratio$|_utilisation_ratio$|_throttled_ratio$|_cpu_cores$|_working_set_bytes$|_load_state$|^fleximigrate_peer_", name)}
            expect(names - measured <= there, f"{expression}: Prometheus has no {names - measured - there}")
        tap.say(f"{len(asked)} expressions, {len(empty)} of them without data just now")
    with tap.test("Prometheus evaluates every alert rule, and none fires"):
        groups = prometheus.api("rules")["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        expect(rules and all(rule["health"] == "ok" for rule in rules), [(rule["name"], rule["health"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] or "no rules")
        expect(all(rule["state"] == "inactive" for rule in rules), [(rule["name"], rule["state"]) for rule in rules if rule["state"] != "inactive"])


def after_a_restart(cluster, prometheus, tap, counted):
    with tap.test("after the manager's kill -9 the counters go on where they were"):
        start = f'process_start_time_seconds{{{MANAGER_JOB}}}'
        before = prometheus.number(start)
        cluster.restart(cluster.manager)
        cluster.wait_online()
        cluster.wait("Prometheus scrapes the new one", lambda: (prometheus.number(start) or before) > before, 30)
        for name, wanted in (("fleximigrate_migration_downtime_seconds_count", len(counted)), ("fleximigrate_migration_downtime_seconds_sum", sum(each["frozen_us"] for each in counted) / 1e6),
                             ("fleximigrate_migration_wire_bytes_total", sum(each["wire_bytes"] for each in counted))):
            found = prometheus.number(f'{name}{{{MANAGER_JOB},strategy="live"}}')
            expect(abs(found - wanted) < 1e-6, f"{name} {found}, was {wanted}")
        resets = prometheus.number(f'sum(resets(fleximigrate_migrations_total{{{MANAGER_JOB}}}[10m]))')
        expect(resets == 0, f"{resets} resets")


def alert_fires(cluster, prometheus, tap):
    with tap.test("a host that goes offline is seen as such, and its alert is pending"):
        cluster.agents["dst"].stop()
        cluster.wait_offline("dst")
        cluster.wait("Prometheus sees it", lambda: prometheus.number(f'fleximigrate_host_up{{{MANAGER_JOB},host="dst"}}') == 0, 30)
        cluster.wait("the alert is pending", lambda: [alert["labels"]["host"] for alert in prometheus.api("alerts")["data"]["alerts"] if alert["labels"]["alertname"] == "FleximigrateHostOffline"] == ["dst"], 30)
        expect(not prometheus.query(f'fleximigrate_host_memory_available_bytes{{{MANAGER_JOB},host="dst"}}'), "it has memory that nobody reports")
        cluster.agents["dst"].start()
        cluster.wait_online()


def run(cluster, tap, options):
    counted = []
    prometheus = Prometheus(cluster)
    try:
        cluster.wait("Prometheus scrapes manager and agent", lambda: prometheus.api("query", query="sum(up)")["status"] == "success" and prometheus.number("sum(up)") == 2, 60)
        redis = Resident(cluster, "redis")
        exposed(cluster, tap)
        migrated(cluster, prometheus, tap, counted)
        agents_see_it(cluster, prometheus, tap)
        refused(cluster, prometheus, tap)
        fleet_is_there(cluster, prometheus, tap)
        dashboard_and_rules(prometheus, tap)
        after_a_restart(cluster, prometheus, tap, counted)
        migrated(cluster, prometheus, tap, counted)
        if not options.short:
            for _ in range(3):
                migrated(cluster, prometheus, tap, counted)
        exposed(cluster, tap)
        redis.conclude("dst" if len(counted) % 2 else "src")
        alert_fires(cluster, prometheus, tap)
        no_leftovers(cluster)
    finally:
        prometheus.stop()


def main():
    unwind_on_signal()
    options = arguments(__doc__)
    tap, name = Tap("metrics", options.tap), lab_name("met")
    missing = [program for program in ("prometheus", "promtool") if not shutil.which(program)]
    if missing:
        with tap.test("metrics in a real Prometheus"):
            raise Skip(f"needs {' and '.join(missing)}, of the package prometheus")
        return tap.end()
    with Cluster(name, keep_on_failure=options.keep, manager_options=lambda cluster: ["--http", MANAGER],
                 agent_options={"dst": ["--http", f":{AGENT_PORT}"], "src": ["--http", f"10.77.0.1:{AGENT_PORT}"]}) as cluster:
        run(cluster, tap, options)
    return conclude(tap, name)


if __name__ == "__main__":
    sys.exit(main())
