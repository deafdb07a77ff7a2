"""Results of bench/compare.py: percentiles, lines for a terminal, ratios, latest.json and index.html."""

import json
import math
import os


def percentile(values, p):
    """Nearest rank: the smallest value that at least p percent of all are not above."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(p / 100 * len(ordered)) - 1)]


def _of(moves, key):
    return [move[key] for move in moves]


def summary(moves, resident):
    downtime = _of(moves, "downtime_ms")
    return {"downtime_ms": {"p50": round(percentile(downtime, 50), 1), "p99": round(percentile(downtime, 99), 1), "all": [round(value, 1) for value in downtime]},
            "total_ms": {"p50": round(percentile(_of(moves, "total_ms"), 50))},
            "wire_bytes": {"p50": percentile(_of(moves, "wire_bytes"), 50)},
            "cpu_s": {"source": round(percentile(_of(moves, "cpu_source_s"), 50), 2), "destination": round(percentile(_of(moves, "cpu_destination_s"), 50), 2)},
            "peak_extra_bytes": max(0, percentile(_of(moves, "peak_bytes"), 50) - resident),
            "throughput_ratio": round(percentile(_of(moves, "throughput_ratio"), 50), 3) if all(move["throughput_ratio"] is not None for move in moves) else None}


def line(r):
    return (f"{r['tool']:<19}{r['strategy']:<14}{r['memory_mb']:>5} MB {r['write_share']:>4.0%} writes {r['link']:<10} downtime p50 {r['downtime_ms']['p50']:>8.1f} p99 {r['downtime_ms']['p99']:>8.1f} ms"
            f"  total {r['total_ms']['p50']:>6} ms  wire {r['wire_bytes']['p50'] / max(r['resident_bytes'], 1):.2f} x resident  cpu {r['cpu_s']['source']:.1f}+{r['cpu_s']['destination']:.1f} s"
            f"  extra {r['peak_extra_bytes'] >> 20} MB  throughput {r['throughput_ratio']}  lost {r['lost_writes']}")


def _key(r):
    return r["workload"], r["memory_mb"], r["write_share"], r["link"]


def ratios(results):
    """Downtime of the best stock tool relative to each of our strategies, for the same load."""
    lines = []
    for r in results:
        others = [o["downtime_ms"]["p50"] for o in results if _key(o) == _key(r) and o["tool"] != "fleximigrate"]
        if r["tool"] == "fleximigrate" and others:
            lines.append(f"{r['memory_mb']} MB, {r['write_share']:.0%} writes, {r['link']}: {r['strategy']} interrupts {min(others) / r['downtime_ms']['p50']:.1f} times shorter than the best stock tool")
    return "\n".join(lines)


def _bars(results):
    """One group of bars for each load, logarithmic: 1 ms to 100 s."""
    parts, y = [], 10
    for key in dict.fromkeys(map(_key, results)):
        parts.append(f'<text x="0" y="{y + 12}" class="head">{key[0]}, {key[1]} MB, {key[2]:.0%} writes, {key[3]}</text>')
        y += 20
        for r in (r for r in results if _key(r) == key):
            width = [max(2.0, math.log10(max(1.0, r["downtime_ms"][p])) * 100) for p in ("p50", "p99")]
            kind = "ours" if r["tool"] == "fleximigrate" else "stock"
            parts.append(f'<text x="0" y="{y + 12}">{r["tool"]} {r["strategy"]}</text><rect x="230" y="{y + 2}" width="{width[1]:.0f}" height="12" class="{kind} faint"/>'
                         f'<rect x="230" y="{y + 2}" width="{width[0]:.0f}" height="12" class="{kind}"/><text x="{240 + width[1]:.0f}" y="{y + 12}">{r["downtime_ms"]["p50"]} ms (p99 {r["downtime_ms"]["p99"]})</text>')
            y += 18
        y += 12
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="960" height="{y}">{"".join(parts)}</svg>'


def _table(results):
    rows = "".join(f"<tr><td>{r['tool']}<td>{r['strategy']}<td>{r['memory_mb']}<td>{r['write_share']:.0%}<td>{r['link']}<td>{r['runs']}<td>{r['downtime_ms']['p50']}<td>{r['downtime_ms']['p99']}<td>{r['total_ms']['p50']}"
                   f"<td>{r['wire_bytes']['p50'] / 1e6:.1f}<td>{r['resident_bytes'] / 1e6:.1f}<td>{r['cpu_s']['source']}<td>{r['cpu_s']['destination']}<td>{r['peak_extra_bytes'] / 1e6:.1f}<td>{r['throughput_ratio']}"
                   f"<td>{r['lost_writes']}" for r in results)
    heads = ("tool", "strategy", "MB", "writes", "link", "runs", "downtime p50 ms", "p99 ms", "total ms", "wire MB", "resident MB", "cpu source s", "cpu destination s", "extra memory MB", "throughput", "lost writes")
    return f"<table><tr>{''.join(f'<th>{head}' for head in heads)}</tr>{rows}</table>"


STYLE = ("body{font:14px sans-serif;margin:2em;max-width:1100px}table{border-collapse:collapse}td,th{padding:2px 8px;border-bottom:1px solid #ccc;text-align:right;font-size:12px}"
         "text{font:12px sans-serif}.head{font-weight:bold}.ours{fill:#2a7}.stock{fill:#888}.faint{opacity:.35}")


def write(folder, results):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "latest.json"), "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    page = (f"<!doctype html><meta charset='utf-8'><title>FlexiMigrate: downtime</title><style>{STYLE}</style><h1>How long clients wait when a container moves</h1>"
            f"<p>The longest wait of any client for any reply, logarithmic; pale: 99th percentile. One run, one machine: {os.uname().release}, {os.cpu_count()} cores.</p>{_bars(results)}{_table(results)}")
    with open(os.path.join(folder, "index.html"), "w", encoding="utf-8") as file:
        file.write(page)
