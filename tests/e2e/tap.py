# SPDX-License-Identifier: MIT
"""Results of a test program, as TAP (--tap: for the runner) or for people.

    tap = Tap("inputs", wants_tap)
    with tap.test("an unknown host is refused"):
        ...                         # an exception is a failure, raise Skip("reason") is a skip; the next test runs all the same
    return tap.end()                # plan or summary; exit code
"""

import contextlib
import sys
import time
import traceback


class Skip(Exception):
    """Cannot be tested here, and why."""


class Failure(Exception):
    """What was expected and what was found."""


class Tap:
    def __init__(self, name, wants_tap):
        self.name, self.wants_tap = name, wants_tap
        self.number = self.failed = self.skipped = 0

    def say(self, text):
        for line in str(text).splitlines() or [""]:
            print(f"# {line}" if self.wants_tap else line, flush=True)

    def _result(self, good, name, seconds, skip=None):
        self.number += 1
        self.failed += not good
        self.skipped += skip is not None
        reason = f" # SKIP {skip}" if skip else ""
        if self.wants_tap:
            print(f"{'ok' if good else 'not ok'} {self.number} - {name}{reason}", flush=True)
        else:
            print(f"{'skip' if skip else 'pass' if good else 'FAIL'}  {name}{reason} ({seconds:.1f} s)", flush=True)

    @contextlib.contextmanager
    def test(self, name):
        started = time.monotonic()
        try:
            yield
        except Skip as skip:
            self._result(True, name, time.monotonic() - started, " ".join(str(skip).split()))
        except Exception as error:  # pylint: disable=broad-except
            self._result(False, name, time.monotonic() - started)
            self.say(error if isinstance(error, Failure) else "".join(traceback.format_exception(error)[-6:]))
        else:
            self._result(True, name, time.monotonic() - started)

    def end(self):
        if self.wants_tap:
            print(f"1..{self.number}", flush=True)
        else:
            print(f"{self.name}: {self.number - self.failed - self.skipped} passed, {self.failed} failed, {self.skipped} skipped", flush=True)
        return 1 if self.failed or not self.number else 0


def expect(good, text):
    """A test's assertion, with words."""
    if not good:
        raise Failure(text() if callable(text) else text)


def fail(text):
    raise Failure(text)


__all__ = ["Tap", "Skip", "Failure", "expect", "fail"]

if __name__ == "__main__":
    sys.exit("tap.py is a module of the end-to-end tests")
