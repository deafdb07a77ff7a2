#!/usr/bin/env python3
"""What is said about metrics agrees with src/web/catalogue.c: docs/METRICS.md has each of them with its type, labels and meaning; examples/monitoring asks for nothing else; agents' phases have their places.

promtool's opinion of the same files is asked in tests/integration/test_monitoring.py.
"""

import glob
import json
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ROW = re.compile(r'^\t\[FM_METRIC_[A-Z0-9_]+\] = \{ "([a-z0-9_]+)", FM_(COUNTER|GAUGE|HISTOGRAM), "([a-z_,]*)", "((?:[^"\\]|\\.)*)" \},$', re.M)
NAME = re.compile(r"\b(?:fleximigrate|process)_[a-z0-9_]+\b")
OTHERS = {"process_"}
MONITORING = os.path.join("examples", "monitoring")


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def catalogue():
    """name -> (type, labels, help)"""
    source, header = read("src", "web", "catalogue.c"), read("src", "web", "catalogue.h")
    rows = ROW.findall(source)
    wanted = re.findall(r"^\tFM_METRIC_[A-Z0-9_]+,", header, re.M)
    if not rows or len(rows) != len(wanted):
        raise RuntimeError(f"catalogue.c has {len(rows)} rows that can be read, catalogue.h {len(wanted)} metrics")
    return {name: (kind.lower(), labels, text.replace('\\"', '"')) for name, kind, labels, text in rows}


def series(metrics):
    """Names of time series: a histogram has three."""
    return {name + suffix for name, (kind, _, _) in metrics.items() for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))}


def documented():
    rows = {}
    for line in read("docs", "METRICS.md").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 5:
            rows[cells[0].strip("`")] = (cells[1], cells[2].replace("`", "").replace(" ", ""), cells[4])
    return rows


def check_document():
    metrics, told = catalogue(), documented()
    yield from (f"docs/METRICS.md lacks {name}" for name in metrics if name not in told)
    yield from (f"docs/METRICS.md has {name}, the program has not" for name in told if name not in metrics)
    yield from (f"docs/METRICS.md says of {name} {told[name]}, catalogue.c {metrics[name]}" for name in metrics if name in told and metrics[name] != told[name])


def expressions(dashboard):
    """Of a Grafana dashboard: of panels, and of variables."""
    found = []
    for panel in dashboard["panels"]:
        found += [target["expr"] for target in panel.get("targets", [])]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found.append(re.fullmatch(r"label_values\((.+), \w+\)", variable["query"]["query"]).group(1))
    return found


def check_dashboard():
    known = series(catalogue())
    for expression in expressions(json.loads(read(MONITORING, "dashboard.json"))):
        names = set(NAME.findall(re.sub(r'"[^"]*"', "", expression)))
        if not names:
            yield f"the dashboard asks for no metric of ours: {expression}"
        yield from (f"the dashboard asks for {name}, which there is not" for name in names - known)


def check_rules():
    metrics = catalogue()
    known = series(metrics) | set(metrics)
    for path in sorted(glob.glob(os.path.join(ROOT, MONITORING, "*.yaml"))):
        names = set(NAME.findall(re.sub(r'job="[^"]*"|job=~"[^"]*"', "", read(path)))) - OTHERS
        if not names:
            yield f"{os.path.relpath(path, ROOT)}: no metric of ours"
        yield from (f"{os.path.relpath(path, ROOT)}: {name}, which there is not" for name in sorted(names - known))


def check_alerts_are_tested():
    alerts = set(re.findall(r"^ *- alert: (\w+)", read(MONITORING, "alerts.yaml"), re.M))
    cases = read(MONITORING, "alerts-test.yaml")
    fired = set(re.findall(r"alertname: (\w+)\n +exp_alerts:", cases))
    quiet = set(re.findall(r"alertname: (\w+)\}", cases))
    if not alerts:
        yield "alerts.yaml: no alert"
    yield from (f"alerts-test.yaml never sees {name} fire" for name in sorted(alerts - fired))
    yield from (f"alerts-test.yaml never sees {name} keep quiet" for name in sorted(alerts - quiet))


def check_phases():
    told = set(re.findall(r'"([a-z-]+)"', re.search(r"fm_tally_phases\[\] = \{(.*?)\}", read("src", "migration", "tally.c"), re.S).group(1)))
    real = set()
    for path in glob.glob(os.path.join(ROOT, "src", "migration", "*.c")):
        real |= set(re.findall(r'\bfm_mover_phase\(m, "([a-z0-9-]+)"', read(path)))
    real = {name for name in real if not name.startswith("fault-")}
    if not real:
        yield "no phase was found; has fm_mover_phase another name?"
    yield from (f"tally.c has no place for the phase {name}" for name in sorted(real - told))
    yield from (f"tally.c has a place for {name}, which no mover reports" for name in sorted(told - real - {"other"}))


CHECKS = [("metrics: docs/METRICS.md and the program agree", check_document), ("metrics: the dashboard asks for what there is", check_dashboard),
          ("metrics: the alert rules and their tests ask for what there is", check_rules), ("metrics: every alert is seen to fire and to keep quiet", check_alerts_are_tested),
          ("metrics: every phase of a migration has its place", check_phases)]


def main():
    failed = 0
    for number, (name, check) in enumerate(CHECKS, 1):
        try:
            found = list(check())
        except (FileNotFoundError, RuntimeError, AttributeError, KeyError, ValueError) as error:
            found = [f"cannot be checked: {error}"]
        for line in found:
            print(f"# {line}")
        failed += bool(found)
        print(f"{'not ok' if found else 'ok'} {number} - {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
