"""Results of bench/compare.py: percentiles, lines for a terminal, ratios, latest.json and index.html."""

import html
import json
import math
import os

LINE_FACTOR, LINE_MS = 1.25, 500  # what a move may take: 1.25 times as long as its bytes do on the link, and half a second


def percentile(values, p):
    """Nearest rank: the smallest value that at least p percent of all are not above."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(p / 100 * len(ordered)) - 1)]


def _p50(moves, key, digits):
    """None when not every move has it"""
    values = [move[key] for move in moves]
    return None if None in values else round(percentile(values, 50), digits or None)


def _line_ratio(move, link_bits_per_s):
    return move["total_ms"] / (LINE_FACTOR * move["wire_bytes"] * 8000 / link_bits_per_s + LINE_MS)


def summary(moves, resident, link_bits_per_s):
    downtime = [move["downtime_ms"] for move in moves]
    ratio = percentile([_line_ratio(move, link_bits_per_s) for move in moves], 50)
    return {"downtime_ms": {"p50": round(percentile(downtime, 50), 1), "p99": round(percentile(downtime, 99), 1)},
            "total_ms": {"p50": _p50(moves, "total_ms", 0)},
            "wire_bytes": {"p50": _p50(moves, "wire_bytes", 0)},
            "back_bytes": {"p50": _p50(moves, "back_bytes", 0)},
            "line_ratio": round(ratio, 2),
            "cpu_s": {"source": _p50(moves, "cpu_source_s", 2), "destination": _p50(moves, "cpu_destination_s", 2)},
            "peak_extra_bytes": max(0, _p50(moves, "peak_bytes", 0) - resident),
            "throughput_ratio": _p50(moves, "throughput_whole", 3),
            "throughput_ratio_rounds": _p50(moves, "throughput_rounds", 3), "throughput_ratio_before_freeze": _p50(moves, "throughput_before_freeze", 3)}


def visits(moves):
    """Of an idle container that goes there and back: bytes of each move, both directions, relative to the first."""
    sent = [move["wire_bytes"] + move["back_bytes"] for move in moves]
    return {"visit_bytes": sent, "second_visit_ratio": round(sent[1] / sent[0], 4)}


def name_of(r):
    return f"{r['tool']} {r['strategy']}"


def load_of(r):
    size = f", {r['memory_mb']} MB" if r["memory_mb"] else ""
    return f"{r['workload']}{size}, {r['load']}, {r['link']}"


def _done(results):
    return [r for r in results if "downtime_ms" in r]


def loaded(results):
    """Those of a load, whose downtime means something"""
    return [r for r in _done(results) if "second_visit_ratio" not in r]


def _why_not(r):
    return f"not run: {r['not_run']}" if "not_run" in r else f"failed: {r['failed']}"


def _percent(value):
    return "-" if value is None else f"{value:.0%}"


def line(r):
    head = f"{name_of(r):<33}{load_of(r):<42}"
    if "downtime_ms" not in r:
        return head + _why_not(r)
    if "second_visit_ratio" in r:
        return f"{head}first move {r['visit_bytes'][0] / 1e6:.1f} MB, second {r['visit_bytes'][1] / 1e6:.1f} MB: {r['second_visit_ratio']:.1%}"
    return (f"{head}downtime p50 {r['downtime_ms']['p50']:>8.1f} p99 {r['downtime_ms']['p99']:>8.1f} ms  total {r['total_ms']['p50']:>6} ms ({r['line_ratio']:.2f} of the line)"
            f"  wire {r['wire_bytes']['p50'] / 1e6:.1f} MB, {r['wire_bytes']['p50'] / max(r['resident_bytes'], 1):.2f} x resident  link {r['link_measured_bits_per_s'] / 1e6:.0f} Mbit/s"
            f"  cpu {r['cpu_s']['source']:.1f}+{r['cpu_s']['destination']:.1f} s  extra {r['peak_extra_bytes'] >> 20} MB"
            f"  throughput in rounds {_percent(r['throughput_ratio_rounds'])}, until the freeze {_percent(r['throughput_ratio_before_freeze'])}, whole {_percent(r['throughput_ratio'])}  lost {r['lost_writes']}")


def ratios(results):
    """Downtime of the best stock tool relative to each of our strategies, for the same load."""
    lines = []
    for r in loaded(results):
        others = [o["downtime_ms"]["p50"] for o in loaded(results) if load_of(o) == load_of(r) and o["tool"] != "fleximigrate"]
        if r["tool"] == "fleximigrate" and others:
            lines.append(f"{load_of(r)}: {r['strategy']} interrupts {min(others) / r['downtime_ms']['p50']:.1f} times shorter than the best stock tool")
    return "\n".join(lines)


def _bars(results):
    """One group of bars for each load, logarithmic: 1 ms to 100 s."""
    parts, y = [], 10
    for load in dict.fromkeys(map(load_of, results)):
        parts.append(f'<text x="0" y="{y + 12}" class="head">{load}</text>')
        y += 20
        for r in (r for r in results if load_of(r) == load):
            width = [max(2.0, math.log10(max(1.0, r["downtime_ms"][p])) * 100) for p in ("p50", "p99")]
            kind = "ours" if r["tool"] == "fleximigrate" else "stock"
            parts.append(f'<text x="0" y="{y + 12}">{name_of(r)}</text><rect x="230" y="{y + 2}" width="{width[1]:.0f}" height="12" class="{kind} faint"/>'
                         f'<rect x="230" y="{y + 2}" width="{width[0]:.0f}" height="12" class="{kind}"/><text x="{240 + width[1]:.0f}" y="{y + 12}">{r["downtime_ms"]["p50"]} ms (p99 {r["downtime_ms"]["p99"]})</text>')
            y += 18
        y += 12
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="960" height="{y}">{"".join(parts)}</svg>'


COLUMNS = (
    ("runs", lambda r: r["runs"]),
    ("downtime p50 ms", lambda r: "-" if r["load"] == "idle" else r["downtime_ms"]["p50"]),
    ("p99 ms", lambda r: "-" if r["load"] == "idle" else r["downtime_ms"]["p99"]),
    ("total ms", lambda r: r["total_ms"]["p50"]),
    ("of the line", lambda r: r["line_ratio"]),
    ("wire MB", lambda r: f"{r['wire_bytes']['p50'] / 1e6:.1f}"),
    ("resident MB", lambda r: f"{r['resident_bytes'] / 1e6:.1f}"),
    ("link, measured Mbit/s", lambda r: f"{r['link_measured_bits_per_s'] / 1e6:.0f}"),
    ("cpu source s", lambda r: r["cpu_s"]["source"]),
    ("cpu destination s", lambda r: r["cpu_s"]["destination"]),
    ("extra memory MB", lambda r: f"{r['peak_extra_bytes'] / 1e6:.1f}"),
    ("throughput in rounds", lambda r: _percent(r["throughput_ratio_rounds"])),
    ("until the freeze", lambda r: _percent(r["throughput_ratio_before_freeze"])),
    ("whole", lambda r: _percent(r["throughput_ratio"])),
    ("lost writes", lambda r: r["lost_writes"]),
    ("second visit", lambda r: f"{r['second_visit_ratio']:.1%}" if "second_visit_ratio" in r else "-"),
)


def _row(r):
    cells = "".join(f"<td>{column(r)}" for _, column in COLUMNS) if "downtime_ms" in r else f"<td colspan={len(COLUMNS)} class='why'>{html.escape(_why_not(r))}"
    return f"<tr><td>{name_of(r)}<td>{load_of(r)}{cells}"


def _table(results):
    heads = "".join(f"<th>{head}" for head in ("tool", "load", *(head for head, _ in COLUMNS)))
    return f"<table><tr>{heads}</tr>{''.join(map(_row, results))}</table>"


STYLE = ("body{font:14px sans-serif;margin:2em;max-width:1400px}table{border-collapse:collapse}td,th{padding:2px 8px;border-bottom:1px solid #ccc;text-align:right;font-size:12px}"
         ".why{text-align:left}text{font:12px sans-serif}.head{font-weight:bold}.ours{fill:#2a7}.stock{fill:#888}.faint{opacity:.35}")


def write(folder, results):
    """Called after each line: a run that is ended has what it measured."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "latest.json"), "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    page = (f"<!doctype html><meta charset='utf-8'><title>FlexiMigrate: downtime</title><style>{STYLE}</style><h1>How long clients wait when a container moves</h1>"
            f"<p>The longest wait of any client for any reply, logarithmic; pale: 99th percentile. One run, one machine: {os.uname().release}, {os.cpu_count()} cores. "
            f"What the figures mean: bench/README.md.</p>{_bars(loaded(results))}{_table(results)}")
    with open(os.path.join(folder, "index.html"), "w", encoding="utf-8") as file:
        file.write(page)
