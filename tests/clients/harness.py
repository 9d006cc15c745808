"""Runs the cases of a script, and helps them to check what the server did."""

import os
import sys
import time
import traceback

from server import KEY, figures

URL = os.environ.get("NANOINFER_URL", "")
BASE = URL + "/v1"
MODEL = os.environ.get("NANOINFER_MODEL_NAME", "")

CASES = []


def case(function):
    """Registers a case. It passes unless it raises."""
    CASES.append(function)
    return function


def main():
    """Runs all cases, or those whose names contain an argument."""
    wanted = sys.argv[1:]
    chosen = [c for c in CASES if not wanted or any(w in c.__name__ for w in wanted)]
    failed = 0
    for function in chosen:
        try:
            function()
        except Exception:
            failed += 1
            print(f"FAILED {function.__name__}", flush=True)
            traceback.print_exc()
    print(f"{len(chosen) - failed} of {len(chosen)} cases pass", flush=True)
    sys.exit(failed > 0)


def raises(kind, function, *args, **kwargs):
    """Calls a function that must raise `kind`, and returns what it raised."""
    try:
        value = function(*args, **kwargs)
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised, but {value!r} returned")


def figure(name):
    """The value of a figure, summed over its labels."""
    found = [v for (n, _), v in figures(URL, KEY).items() if n == name]
    assert found, f"there is no figure {name}"
    return sum(found)


def assert_cancelled(stream, events):
    """Closes a stream after some events of an endless answer, which has to end it in the engine."""
    before = figure("nanoinfer_cancelled_total")
    for _, _ in zip(range(events), stream):
        pass
    stream.close()
    wait_until_idle()
    assert figure("nanoinfer_cancelled_total") == before + 1


def wait_until_idle(seconds=5):
    """Waits until no request runs or waits."""
    end = time.monotonic() + seconds
    while sum(figure(f"nanoinfer_{name}") for name in ("running", "waiting", "preempted")) > 0:
        assert time.monotonic() < end, "a cancelled request goes on"
        time.sleep(0.02)
