#!/usr/bin/python3
"""Charts as PNG out of latest.json: bench/chart.py FOLDER. Needs matplotlib, which belongs to Debian's own Python; index.html has the downtime as SVG without it."""

import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import report  # noqa: E402

NO_MATPLOTLIB = 3
COLOURS = ("#22aa77", "#117755", "#66ccaa", "#99ddcc", "#888888", "#bbbbbb", "#555555")
INCHES_PER_BAR, HEIGHT_MIN = 0.28, 2.5


def _rounds(r):
    ratio = r["throughput_ratio_rounds"]
    return None if ratio is None else ratio * 100


# file, title, logarithmic, where the line is that is asked for, value
CHARTS = (
    ("downtime.png", "Longest wait of any client, p50 (ms)", True, None, lambda r: r["downtime_ms"]["p50"]),
    ("total.png", "Total time relative to 1.25 x bytes / link + 0.5 s", False, 1, lambda r: r["line_ratio"]),
    ("throughput.png", "Requests per second in the rounds, percent of those before", False, 90, _rounds),
)


def _one(pyplot, path, title, logarithmic, mark, rows):
    names = list(dict.fromkeys(name for _, name, _ in rows))
    figure, axes = pyplot.subplots(figsize=(9, max(HEIGHT_MIN, len(rows) * INCHES_PER_BAR + 1)), constrained_layout=True)
    bars = axes.barh(range(len(rows)), [value for _, _, value in rows], color=[COLOURS[names.index(name) % len(COLOURS)] for _, name, _ in rows])
    axes.bar_label(bars, fmt="%.4g", padding=3, fontsize=7)
    axes.set_yticks(range(len(rows)), [f"{name}: {load}" for load, name, _ in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10)
    if logarithmic:
        axes.set_xscale("log")
    if mark is not None:
        axes.axvline(mark, color="#cc4444", linewidth=1)
    axes.margins(x=0.12)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(folder):
    try:
        import matplotlib
        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return NO_MATPLOTLIB
    with open(os.path.join(folder, "latest.json"), encoding="utf-8") as file:
        rows = report.loaded(json.load(file))
    for name, title, logarithmic, mark, value in CHARTS:
        valued = [(report.load_of(r), report.name_of(r), value(r)) for r in rows if value(r) is not None]
        if valued:
            _one(pyplot, os.path.join(folder, name), title, logarithmic, mark, valued)
            print(name)
    return 0


def draw(folder):
    """With Debian's Python, whichever runs the bench. Returns the names of the charts, None without matplotlib."""
    done = subprocess.run([os.path.abspath(__file__), folder], capture_output=True, text=True, check=False)
    if done.returncode not in (0, NO_MATPLOTLIB):
        raise RuntimeError(f"charts: {done.stderr.strip()}")
    return done.stdout.split() if done.returncode == 0 else None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    status = main(sys.argv[1])
    if status == NO_MATPLOTLIB:
        print("chart.py: no matplotlib: tools/setup/install-packages.sh --group bench", file=sys.stderr)
    sys.exit(status)
