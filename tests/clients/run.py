#!/usr/bin/env python3
"""Tests `nanoinfer serve` with the clients of others.

    run.py BINARY [CLIENT[=PYTHON] …] [--model MODEL] [--counts full]

Runs the script of each CLIENT against a server of its own, on a free port of this machine. PYTHON is the
interpreter whose packages the client uses (default: this one). Without CLIENT, all clients but the soak are run, except
those whose package is not installed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import tiny
from server import Server

HERE = Path(__file__).parent


class Client(NamedTuple):
    """A script, the package it needs, and how its server is started."""

    script: str
    package: str = "json"
    keys: bool = False
    args: tuple[str, ...] = ()
    tiny: bool = False


# The template of the default model has no tools. This one has the same markers.
TOOLS = ("--chat-template", str(HERE.parents[1] / "crates/text/tests/data/tools/qwen2.5.jinja"))

CLIENTS = {
    "openai": Client("with_openai.py", "openai", keys=True, args=TOOLS),
    "anthropic": Client("with_anthropic.py", "anthropic", keys=True, args=TOOLS),
    "langchain": Client("with_langchain.py", "langchain_openai", args=TOOLS),
    "litellm": Client("with_litellm.py", "litellm", args=TOOLS),
    "ollama": Client("with_ollama.py", "ollama", args=TOOLS),
    "recipes": Client("with_recipes.py", "llama_index"),
    "llamacpp": Client("like_llamacpp.py", args=TOOLS),
    "schemathesis": Client("with_schemathesis.py", "schemathesis", tiny=True),
    # The memory of the server is compared, so that of the cache has to be small; some answers fill the context.
    "hostile": Client("hostile.py", args=("--kv-mb", "64", "--ctx", "1024")),
    "chromium": Client("with_chromium.py"),
    "complaints": Client("complaints.py"),
    "agents": Client("agents.py", args=(*TOOLS, "--ctx", "32768")),
    "soak": Client("soak.py", tiny=True),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("clients", nargs="*", metavar="CLIENT[=PYTHON]")
    parser.add_argument("--model", help="the model to serve (default: smollm2, or a tiny one where any will do)")
    parser.add_argument("--counts", choices=("short", "full"), default="short", help="how much the complaints ask, see there")
    parser.add_argument("--only", default=[], action="append", help="run the cases whose names contain this")
    options = parser.parse_args()
    chosen = [name.partition("=")[::2] for name in options.clients or [c for c in CLIENTS if c != "soak"]]
    if unknown := [name for name, _ in chosen if name not in CLIENTS]:
        parser.error(f"unknown client {unknown[0]}; known are {', '.join(CLIENTS)}")
    passed = [run(options, name, python or sys.executable) for name, python in chosen]
    sys.exit(not all(passed))


def run(options, name, python):
    """Runs a client. Returns whether all of its cases passed."""
    client = CLIENTS[name]
    found = subprocess.run([python, "-c", f"import {client.package}"], capture_output=True, text=True)
    if found.returncode != 0:
        print(f"{name}: {'not installed' if options.clients else 'skipped'}: {found.stderr.strip().splitlines()[-1]}")
        return not options.clients
    if client.tiny and not options.model:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as home:
            os.environ["NANOINFER_HOME"] = home  # the converted model is not kept
            try:
                return serve(options, name, python, tiny.make(folder))
            finally:
                del os.environ["NANOINFER_HOME"]
    return serve(options, name, python, options.model or "smollm2")


def serve(options, name, python, model):
    """Runs a client against a server of its own."""
    client, start = CLIENTS[name], time.monotonic()
    with Server(options.binary, ["--model", f"served={model}", *client.args], client.keys) as server:
        env = os.environ | {
            "NANOINFER_URL": server.url,
            "NANOINFER_MODEL_NAME": "served",
            "NANOINFER_PID": str(server.process.pid),
            "NANOINFER_BINARY": options.binary,
            "NANOINFER_MODEL": str(model),
            "COUNTS": options.counts,
            "NO_PROXY": "127.0.0.1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        print(f"{name}: {version(python, client.package)}", flush=True)
        code = subprocess.run([python, HERE / client.script, *options.only], env=env).returncode
        died = server.process.poll() is not None
        counts = {} if died else server.requests()
    counts = ", ".join(f"{n} × {status}" for status, n in sorted(counts.items()))
    seconds = time.monotonic() - start
    print(f"{name}: {'ok' if code == 0 and not died else 'FAILED'}, {seconds:.1f} s; responses: {counts}\n", flush=True)
    if died or code != 0:
        print("\n".join(server.log[-20:]))
    return code == 0 and not died


def version(python, package):
    """The version of an installed package."""
    code = f"from importlib.metadata import version as v; print(v({package.replace('_', '-')!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip() or "no package needed"


if __name__ == "__main__":
    main()
