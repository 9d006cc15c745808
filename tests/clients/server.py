"""Starts `nanoinfer serve` on a free port of this machine, and ends it."""

import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import urllib.request

KEY = "sk-test-0123456789abcdef"


class Server:
    """A running server. `args` are options of `nanoinfer serve`; with `keys`, requests need KEY."""

    def __init__(self, binary, args=(), keys=False):
        self.binary, self.args, self.keys, self.log = binary, list(args), keys, []

    def __enter__(self):
        command = [self.binary, "serve", "--port", "0", *self.args]
        if self.keys:
            self.file = tempfile.NamedTemporaryFile("w", suffix=".keys")
            self.file.write(f"tester {KEY}\n")
            self.file.flush()
            command += ["--keys", self.file.name]
        kept = ("NANOINFER_HOME", "NANOINFER_ISA")  # the others are options of the server
        env = {k: v for k, v in os.environ.items() if not k.startswith("NANOINFER_") or k in kept}
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", env=env
        )
        for line in self.process.stderr:
            self.log.append(line.rstrip())
            if found := re.search(r"listening on (?:http://)?([\d.]+):(\d+)", line):
                break
        else:
            raise SystemExit("the server did not start:\n" + "\n".join(self.log))
        self.host, self.port = found[1], int(found[2])
        self.url = f"http://{self.host}:{self.port}"
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line.rstrip())

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise SystemExit("the server did not end within 10 s of SIGTERM")

    def figures(self):
        """The figures of /metrics: {(name, labels): value}."""
        return figures(self.url, KEY if self.keys else None)

    def requests(self):
        """How many requests were answered, by status."""
        counts = {}
        for (name, labels), value in self.figures().items():
            route = re.search(r'route="([^"]*)"', labels)
            if name == "nanoinfer_responses_total" and route and route[1] != "/metrics":
                status = re.search(r'status="(\d+)"', labels)[1]
                counts[status] = counts.get(status, 0) + int(value)
        return counts

    def status(self, field):
        """A field of the process's status in kilobytes, such as RssAnon. Linux only."""
        with open(f"/proc/{self.process.pid}/status") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))

    def cpu(self):
        """The seconds of CPU that the process has used. Linux only."""
        with open(f"/proc/{self.process.pid}/stat") as line:
            fields = line.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self):
        """The number of open file descriptors. Linux only."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def figures(url, key=None):
    request = urllib.request.Request(url + "/metrics", headers={"Authorization": f"Bearer {key}"} if key else {})
    text = urllib.request.urlopen(request, timeout=10).read().decode()
    found = {}
    for line in text.splitlines():
        if part := re.fullmatch(r"([a-zA-Z_:]+)(\{.*\})? (\S+)", line):
            found[part[1], part[2] or ""] = float(part[3])
    return found


def call(url, body=None, headers=None, method=None):
    """Sends a request without any client library. Returns status, headers, and the body as JSON or text."""
    data = None if body is None else (body if isinstance(body, bytes) else json.dumps(body).encode())
    request = urllib.request.Request(url, data, headers or {}, method=method)
    if data is not None and not request.has_header("Content-type"):
        request.add_header("Content-Type", "application/json")
    try:
        reply = urllib.request.urlopen(request, timeout=600)
    except urllib.error.HTTPError as error:
        reply = error
    text = reply.read().decode()
    try:
        return reply.status, reply.headers, json.loads(text)
    except ValueError:
        return reply.status, reply.headers, text


def events(url, body, headers=None):
    """Streams a request; returns the data of its events, which are JSON, without [DONE]."""
    status, _, text = call(url, body | {"stream": True}, headers)
    assert status == 200, (status, text)
    data = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in data if line != "[DONE]"]
