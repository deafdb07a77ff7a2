"""Charts as PNG, if matplotlib is there: without it nothing is missing but these files (index.html has the bars as SVG)."""

import os

try:
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
except ImportError:
    pyplot = None

COLOURS = ("#22aa77", "#117755", "#66ccaa", "#99ddcc", "#888888", "#bbbbbb", "#555555")
INCHES_PER_BAR, HEIGHT_MIN = 0.28, 2.5
LINE = 1.0


def _total(r):
    return r["line_ratio"]


def _rounds(r):
    ratio = r["throughput_ratio"]["rounds"]
    return None if ratio is None else ratio * 100


CHARTS = (
    ("downtime.png", "Longest wait of any client, p50 (ms)", True, None, lambda r: r["downtime_ms"]["p50"]),
    ("total.png", "Total time relative to 1.25 x bytes / link + 0.5 s", False, LINE, _total),
    ("throughput.png", "Requests per second in the rounds, percent of those before", False, 90, _rounds),
)


def _one(path, title, logarithmic, mark, rows):
    names = list(dict.fromkeys(name for _, name, _ in rows))
    figure, axes = pyplot.subplots(figsize=(9, max(HEIGHT_MIN, len(rows) * INCHES_PER_BAR + 1)), layout="constrained")
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


def write(folder, rows):
    """rows: (load, tool, result); returns the names of what was written."""
    written = []
    for name, title, logarithmic, mark, value in CHARTS if pyplot else ():
        valued = [(load, tool, value(r)) for load, tool, r in rows if value(r) is not None]
        if valued:
            _one(os.path.join(folder, name), title, logarithmic, mark, valued)
            written.append(name)
    return written
