#!/usr/bin/env python3
"""Texts that must agree with the program: manual pages with --help, docs/LIFECYCLE.md with the state table, exit codes everywhere, links between documents.

The program is $BUILD/fleximigrate (default: build/). In man/fleximigrate.1.scd each client verb has a heading "## VERB ARGUMENTS"; a line that starts with
*--name* documents an option; "Client options apply." stands for those of the section CLIENT OPTIONS. Manager and agent have pages of their own.
"""

import glob
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.path.join(ROOT, os.environ.get("BUILD") or "build", "fleximigrate")
DAEMONS = ("manager", "agent")
HELP_TIMEOUT_S = 20


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def unstyled(text):
    """scdoc's bold, underline and escapes taken away."""
    return re.sub(r"(?<![a-zA-Z0-9])_|_(?![a-zA-Z0-9])|\*|\\", "", text).strip()


def program_help(*verb):
    done = subprocess.run([PROGRAM, *verb, "--help"], capture_output=True, text=True, timeout=HELP_TIMEOUT_S, check=False)
    if done.returncode != 0 or done.stderr:
        raise RuntimeError(f"'{' '.join(verb)} --help' ends with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def help_options(verb):
    """{"--to": "HOST"}; flags have ""."""
    options = re.findall(r"^  (--[a-z][a-z-]*)((?: \S+)?) {1,}\S", program_help(*verb.split()), re.M)
    return {name: argument.strip() for name, argument in options if name != "--help"}


def help_verbs():
    block = program_help().split("Verbs:\n", 1)[1].split("\n\n", 1)[0]
    return [re.split(r"\s{2,}", line.strip())[0] for line in block.splitlines()]


def section(page, title):
    match = re.search(rf"^# {title}\n(.*?)(?=^# |\Z)", page, re.M | re.S)
    return match.group(1) if match else ""


def page_options(text):
    return {name: unstyled(argument) for name, argument in re.findall(r"^\*(--[a-z][a-z-]*)\*(.*)$", text, re.M)}


def page_verbs(page):
    """verb -> text of its section"""
    return {" ".join(word for word in heading.split() if re.fullmatch(r"[a-z]+(-[a-z]+)*", word)): text
            for heading, text in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", section(page, "VERBS"), re.M | re.S)}


def documented_options():
    """verb -> options, from the pages"""
    page = read("man", "fleximigrate.1.scd")
    client = page_options(section(page, "CLIENT OPTIONS"))
    found = {}
    for verb, text in page_verbs(page).items():
        found[verb] = page_options(text)
        if re.search(r"Client\s+options\s+apply", text):
            found[verb].update(client)
    for daemon in DAEMONS:
        found[daemon] = page_options(section(read("man", f"fleximigrate-{daemon}.8.scd"), "OPTIONS"))
    return found


def check_manual():
    documented, verbs = documented_options(), help_verbs()
    yield from (f"verb '{verb}' is in the program, not in the manual" for verb in verbs if verb not in documented)
    yield from (f"verb '{verb}' is in the manual, not in the program" for verb in documented if verb not in verbs)
    for verb in (verb for verb in verbs if verb in documented):
        real, told = help_options(verb), documented[verb]
        if not real:
            yield f"{verb}: its --help shows no options"
        yield from (f"{verb}: {name} is not in the manual" for name in real if name not in told)
        yield from (f"{verb}: {name} is in the manual only" for name in told if name not in real)
        yield from (f"{verb}: {name} takes '{real[name]}', the manual says '{told[name]}'" for name in real if name in told and real[name] != told[name])


def table_rows(text, *header):
    """Rows of the Markdown table whose header begins with these cells."""
    rows, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")] if line.startswith("|") else None
        if cells is None:
            inside = False
        elif cells[:len(header)] == list(header):
            inside = True
        elif inside and not set(cells[0]) <= {"-", ":"}:
            rows.append(cells)
    return rows


def check_lifecycle():
    document, header, source = read("docs", "LIFECYCLE.md"), read("src", "migration", "state.h"), read("src", "migration", "state.c")
    numbers = {name: int(number) for name, number in re.findall(r"FM_STATE_([A-Z]+) = (\d+),", header) if name != "INVALID"}
    told = {row[1]: int(row[0]) for row in table_rows(document, "n", "state")}
    if numbers != told:
        yield f"docs/LIFECYCLE.md has the states {told}, state.h {numbers}"
    names = re.search(r"names\[\] = \{(.*?)\}", source, re.S).group(1)
    listed = {name: index for index, name in enumerate(re.findall(r'"([A-Z]+)"', names)) if index > 0}
    if listed != numbers:
        yield f"state.c names the states {listed}, state.h {numbers}"
    rules = [rule for rule in re.findall(r'\{ FM_STATE_([A-Z]+), FM_STATE_([A-Z]+), "(\w*)", (true|false) \}', source) if rule[0] != "INVALID"]
    rows = [(row[0], row[1], "" if row[2] == "-" else row[2], "true" if row[3] == "yes" else "false") for row in table_rows(document, "from", "to", "label")]
    yield from (f"docs/LIFECYCLE.md lacks the transition {rule}" for rule in rules if rule not in rows)
    yield from (f"docs/LIFECYCLE.md has a transition that state.c has not: {row}" for row in rows if row not in rules)
    if not rules:
        yield "state.c: no transitions were found; has its form changed?"


def exit_codes_of_cli_h():
    comment = re.search(r"Exit codes.*?\*/", read("src", "cli", "cli.h"), re.S).group(0)
    return sorted(int(number) for number in re.findall(r"(?:^|[·\n])[ *]*(\d+) [a-z]", comment))


def check_exit_codes():
    real = exit_codes_of_cli_h()
    page = section(read("man", "fleximigrate.1.scd"), "EXIT STATUS")
    places = {
        "docs/ERRORS.md": sorted(int(row[0]) for row in table_rows(read("docs", "ERRORS.md"), "exit code")),
        "man/fleximigrate.1.scd": sorted(int(number) for number in re.findall(r"^\*(\d+)\*", page, re.M)),
        "fleximigrate --help": sorted(int(number) for number in re.findall(r"(\d+) [a-z]", program_help().split("Exit codes:", 1)[1])),
    }
    yield from (f"{place} has the exit codes {told}, src/cli/cli.h {real}" for place, told in places.items() if told != real)


def check_error_codes():
    """docs/ERRORS.md: gRPC code, its number, the exit code that fm_exit_code() makes of it."""
    numbers = dict(re.findall(r"\bFM_(?:E_)?([A-Z_]+) = (\d+),", read("src", "basic", "error.h")))
    body = re.search(r"^int fm_exit_code\(.*?^\}", read("src", "cli", "common.c"), re.M | re.S).group(0)
    exits, pending = {}, []
    for name, code in re.findall(r"case FM_(?:E_)?([A-Z_]+):|return (\d+);", body):
        pending += [name] if name else []
        if code:
            exits.update({each: code for each in pending})
            pending = []
    fallback = re.search(r"default:\s+return (\d+);", body).group(1)
    real = {(name, number, exits.get(name, fallback)) for name, number in numbers.items()}
    told = {tuple(row[:3]) for row in table_rows(read("docs", "ERRORS.md"), "code", "number", "exit code")}
    yield from (f"docs/ERRORS.md lacks {code}" for code in sorted(real - told))
    yield from (f"docs/ERRORS.md has {code}, the program has not" for code in sorted(told - real))


def documents():
    out = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for path in out.splitlines() if os.path.isfile(os.path.join(ROOT, path))]


def check_links():
    for path in documents():
        text = re.sub(r"^```.*?^```", "", read(path), flags=re.M | re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:|#", target):
                continue
            if not os.path.exists(os.path.join(ROOT, os.path.dirname(path), target.split("#")[0])):
                yield f"{path}: the link to {target} leads nowhere"


def check_pages_compile():
    for page in sorted(glob.glob(os.path.join(ROOT, "man", "*.scd"))):
        with open(page, encoding="utf-8") as file:
            done = subprocess.run(["scdoc"], stdin=file, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            yield f"{os.path.relpath(page, ROOT)}: {done.stderr.strip()}"


CHECKS = [("verbs and options: --help and manual agree", check_manual), ("states and transitions: docs/LIFECYCLE.md and the table agree", check_lifecycle),
          ("exit codes: cli.h, --help, manual and docs/ERRORS.md agree", check_exit_codes), ("error codes: docs/ERRORS.md and the program agree", check_error_codes),
          ("links between documents lead somewhere", check_links), ("manual pages compile", check_pages_compile)]


def main():
    failed = 0
    for number, (name, check) in enumerate(CHECKS, 1):
        try:
            found = list(check())
        except FileNotFoundError as error:
            if error.filename == "scdoc":
                print(f"ok {number} - {name} # SKIP scdoc is not installed")
                continue
            found = [f"{error.filename} is missing" + ("; build the program first" if error.filename == PROGRAM else "")]
        except (AttributeError, IndexError, RuntimeError, subprocess.TimeoutExpired) as error:
            found = [f"cannot be checked: {error}"]
        for line in found:
            print(f"# {line}")
        failed += bool(found)
        print(f"{'not ok' if found else 'ok'} {number} - {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
