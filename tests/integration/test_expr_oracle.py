#!/usr/bin/env python3
"""Conditions agree with Python: 10,000 random expressions, each evaluated by the program and by Python's own eval() (of texts that this file makes; the program has none). SEED=N repeats a run, COUNT=N changes how many."""

import json
import os
import random
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROBE = os.path.join(ROOT, os.environ.get("BUILD") or "build", "tests", "unit", "expr-probe")
COUNT = int(os.environ.get("COUNT", "10000"))
WORDS = ["critical", "batch", "", "a", "Ab", "crit", "it's", 'say "x"', "h\u00e9", "\u4e2d\u6587", "zone-1", "x\ty"]
NAMES = {"n": ["source_cpu_utilization", "time_of_day", "dirty", "minus"], "t": ["service_type", "zone"], "b": ["nested"]}
FUNCTIONS = {"floor": lambda v: __import__("math").floor(v), "ceil": lambda v: __import__("math").ceil(v), "abs": abs, "round": round, "min": min, "max": max, "len": len,
             "lower": lambda t: "".join(c.lower() if c.isascii() else c for c in t), "upper": lambda t: "".join(c.upper() if c.isascii() else c for c in t),
             "startswith": lambda t, p: t.startswith(p), "endswith": lambda t, p: t.endswith(p), "true": True, "false": False}
LARGEST = 2.0 ** 53  # where Python's whole numbers and its floats part


class Maker:
    def __init__(self, seed):
        self.r = random.Random(seed)

    def pick(self, *ways):
        return self.r.choice(ways)

    def space(self):
        return self.r.choice([" ", " ", " ", "  ", ""])

    def literal(self, kind):
        if kind == "n":
            return self.pick(str(self.r.randint(0, 30)), str(self.r.randint(0, 10 ** 6)), repr(round(self.r.uniform(0, 100), self.r.randint(0, 4))), "2.5", "0.5", "1e3", ".25", "7.")
        if kind == "t":
            word = self.r.choice(WORDS)
            quote = self.r.choice("'\"")
            return quote + word.replace("\\", "\\\\").replace("\t", "\\t").replace(quote, "\\" + quote) + quote
        return self.pick("true", "True", "false", "False")

    def number(self, depth):
        if depth <= 0:
            return self.pick(self.literal("n"), self.r.choice(NAMES["n"]))
        s = self.space
        return self.pick(
            lambda: f"{self.number(depth - 1)}{s()}{self.r.choice(['+', '-', '*', '/', '//', '%'])}{s()}{self.number(depth - 1)}",
            lambda: f"{self.number(depth - 1)}{s()}{self.r.choice(['+', '-', '*'])} {self.number(depth - 2)}{s()}{self.r.choice(['+', '-', '/'])}{s()}{self.number(depth - 2)}",
            lambda: f"({self.number(depth - 1)})",
            lambda: f"-{s()}{self.number(depth - 2)}", lambda: f"+{self.number(depth - 2)}",
            lambda: f"{self.r.choice(['abs', 'round', 'floor', 'ceil'])}({self.number(depth - 1)})",
            lambda: f"round({self.number(depth - 1)}, {self.r.randint(0, 6)})",
            lambda: f"{self.r.choice(['min', 'max'])}({self.number(depth - 1)}, {self.number(depth - 2)}{self.pick('', ', 3', ', 2.5,')})",
            lambda: f"len({self.text(depth - 1)})",
            lambda: self.number(0))()

    def text(self, depth):
        if depth <= 0:
            return self.pick(self.literal("t"), self.r.choice(NAMES["t"]))
        return self.pick(lambda: f"{self.r.choice(['lower', 'upper'])}({self.text(depth - 1)})", lambda: f"({self.text(depth - 1)})", lambda: self.text(0))()

    def of(self, kind, depth):
        return {"n": self.number, "t": self.text, "b": self.truth}[kind](depth)

    def sequence(self, kind, depth):
        entries = [self.of(kind, depth) if kind != "b" else self.literal("b") for _ in range(self.r.randint(0, 4))]
        text = ", ".join(entries)
        if self.r.random() < 0.5:
            return f"[{text}{',' if entries and self.r.random() < 0.2 else ''}]"
        return f"({text}{',' if len(entries) == 1 or (entries and self.r.random() < 0.2) else ''})"

    def truth(self, depth):
        if depth <= 0:
            return self.pick(self.literal("b"), self.r.choice(NAMES["b"]), f"{self.number(0)} < {self.number(0)}", f"{self.text(0)} == {self.text(0)}")
        less, kind = depth - 1, self.pick("n", "t")
        operator = lambda: self.r.choice(["<", "<=", ">", ">=", "==", "!="])
        return self.pick(
            lambda: f"{self.truth(less)} {self.pick('and', 'or')} {self.truth(less)}",
            lambda: f"{self.truth(less)} {self.pick('and', 'or')} {self.truth(less)} {self.pick('and', 'or')} {self.truth(less - 1)}",
            lambda: f"not {self.truth(less)}", lambda: f"({self.truth(less)})",
            lambda: f"{self.of(kind, less)}{self.space()}{operator()}{self.space()}{self.of(kind, less)}",
            lambda: f"{self.of(kind, less)} {operator()} {self.of(kind, less)} {operator()} {self.of(kind, less - 1)}",
            lambda: f"{self.of(kind, less)} {self.pick('in', 'not in')} {self.sequence(kind, less - 1)}",
            lambda: f"{self.text(less)} {self.pick('in', 'not in')} {self.text(less)}",
            lambda: f"{self.pick('startswith', 'endswith')}({self.text(less)}, {self.text(less)})",
            lambda: f"({self.truth(less)}) {self.pick('==', '!=')} ({self.truth(less)})",
            lambda: self.exactly(less))()

    def exactly(self, depth):
        """A number as it is, to the last bit; what it is, Python says."""
        text = self.number(depth + 1)
        try:
            value = float(python(text, self.variables))
        except (ZeroDivisionError, OverflowError):
            return text + " == 0"
        if not abs(value) < LARGEST or "inf" in repr(value):
            return text + " == 0"
        return f"{text} == {value!r}"

    def make(self):
        self.variables = {"source_cpu_utilization": self.r.choice([0, 12.5, 80, 81, round(self.r.uniform(0, 100), 3)]), "time_of_day": self.r.choice([0, 17.99, 18, 18.5, 22, 23.75]),
                          "dirty": self.r.randint(0, 10 ** 9), "minus": self.r.choice([-1, -2.5, -80, -0.125]), "service_type": self.r.choice(WORDS), "zone": self.r.choice(WORDS),
                          "nested": self.r.random() < 0.5}
        return self.truth(self.r.randint(1, 5))


class Floats(dict):
    pass


def python(text, variables):
    """Numbers are floats, as the language says: whole ones are the same in Python up to 2^53."""
    return eval(text.replace("true", "True").replace("false", "False"), {"__builtins__": {}}, {**FUNCTIONS, **variables})  # pylint: disable=eval-used


def expected(text, variables):
    try:
        return "true" if python(text, variables) else "false"
    except ZeroDivisionError:
        return "error division by zero"


def main():
    if not os.path.exists(PROBE):
        print(f"1..0 # SKIP {PROBE} is not built")
        return 1
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(2 ** 31)))
    maker, cases = Maker(seed), []
    while len(cases) < COUNT:
        text = maker.make()
        if len(text) < 4000:
            cases.append((text, dict(maker.variables)))
    lines = "".join(json.dumps({"expression": text, "variables": variables}) + "\n" for text, variables in cases)
    answers = subprocess.run([PROBE], input=lines, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    wrong, seen = [], {}
    for (text, variables), answer in zip(cases, answers, strict=True):
        want = expected(text, variables)
        seen[want] = seen.get(want, 0) + 1
        if answer != want:
            wrong.append((text, variables, want, answer))
    print(f"# seed {seed}: {len(cases)} expressions, {seen}")
    for text, variables, want, answer in wrong[:10]:
        print(f"# {text!r} with {variables}: Python says {want}, the program {answer}")
    enough = all(seen.get(outcome, 0) > COUNT // 1000 for outcome in ("true", "false", "error division by zero"))
    print(f"{'not ok' if wrong else 'ok'} 1 - {len(cases)} random expressions come to what Python says")
    print(f"{'ok' if enough else 'not ok'} 2 - all outcomes were among them")
    print("1..2")
    return 1 if wrong or not enough else 0


if __name__ == "__main__":
    sys.exit(main())
