"""Clients that break rules: slow, silent, lying, huge, broken, and many. Needs no package.

Prints figures; asserts only what holds on any machine. Takes minutes, since it waits for time limits.
"""

import json
import os
import random
import re
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlparse

from harness import MODEL, URL, case, figure, main, wait_until_idle
from server import call

PID = os.environ.get("NANOINFER_PID")
PLACE = urlparse(URL)
ADDRESS = (PLACE.hostname, PLACE.port)
# The server's time limit for a head, and for the pause between parts of a body; and how late it may be.
LIMIT, LATE = 30, 15


def connect(timeout=LIMIT + LATE, receive=None):
    peer = socket.socket()
    if receive:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    peer.settimeout(timeout)
    peer.connect(ADDRESS)
    return peer


def head(method, path, *headers, host="localhost"):
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode()


def post(body, path="/v1/chat/completions", *headers):
    return head("POST", path, "Content-Type: application/json", f"Content-Length: {len(body)}", *headers) + body


def chat(text="Hi!", **fields):
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 2} | fields).encode()


def everything(peer):
    """All bytes until the peer closes the connection."""
    found = b""
    try:
        while part := peer.recv(65536):
            found += part
    except ConnectionError:
        pass
    return found


def statuses(data):
    """The statuses of the responses in `data`."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", data)]


def exchange(data, close=False):
    """The status with which the server answers raw bytes; None if it only closes the connection.

    With `close`, nothing follows these bytes. The server takes that for the end of the client, and need not answer.
    """
    with connect() as peer:
        found = b""
        try:
            peer.sendall(data)
            if close:
                peer.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # closed before it read everything
        try:
            while not statuses(found) and (part := peer.recv(65536)):
                found += part
        except ConnectionError:
            pass
        return next(iter(statuses(found)), None)


def status_of(body, path="/v1/chat/completions", *headers):
    return exchange(post(body, path, *headers, "Connection: close"))


def latency():
    """Seconds that a well-behaved client waits for a short answer."""
    start = time.monotonic()
    assert call(URL + "/v1/chat/completions", chat())[0] == 200
    return time.monotonic() - start


def memory():
    with open(f"/proc/{PID}/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def descriptors():
    return len(os.listdir(f"/proc/{PID}/fd"))


def closed_after(peers, since, each=lambda peer: None):
    """The seconds after which the server has closed each connection."""
    left, times = list(peers), []
    while left and time.monotonic() - since < LIMIT + LATE:
        for peer in list(left):
            peer.settimeout(0.001)
            try:
                each(peer)
                if peer.recv(4096):
                    continue  # a response, such as 408
            except TimeoutError:
                continue
            except OSError:
                pass
            times.append(time.monotonic() - since)
            left.remove(peer)
        time.sleep(0.2)
    assert not left, f"{len(left)} of {len(peers)} connections are still open"
    return times


def say(text):
    print("  " + text, flush=True)


@case
def silent_and_slow_connections_are_closed():
    before, start = descriptors(), time.monotonic()
    silent = [connect() for _ in range(100)]
    slow = [connect() for _ in range(50)]
    bodies = [connect() for _ in range(50)]
    for peer in slow:
        peer.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n")
    for peer in bodies:
        peer.sendall(head("POST", "/v1/chat/completions", "Content-Length: 1000") + b'{"messages"')
    waits = [latency() for _ in range(5)]
    sent = {peer: time.monotonic() for peer in slow}

    def drip(peer):
        if peer in sent and time.monotonic() - sent[peer] > 1:
            sent[peer] = time.monotonic()
            peer.sendall(b"X-A: b\r\n")

    times = closed_after(silent + slow + bodies, start, drip)
    say(f"200 silent or slow: closed after {min(times):.1f} to {max(times):.1f} s; others waited {max(waits):.2f} s")
    end = time.monotonic() + 5
    while descriptors() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert descriptors() <= before


@case
def a_thousand_connections():
    before, size, start = descriptors(), memory(), time.monotonic()
    peers = [connect() for _ in range(1000)]
    say(f"1000 opened in {time.monotonic() - start:.2f} s: {descriptors() - before} descriptors, {memory() - size:+.1f} MB")
    assert descriptors() - before <= 600  # the limit is 512
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(latency)
        time.sleep(1)
        stuck = not waiting.done()
        for peer in peers:
            peer.close()
        say(f"a client behind them waited {waiting.result():.2f} s{', until they were closed' if stuck else ''}")
    end = time.monotonic() + 5
    while descriptors() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert descriptors() <= before


@case
def lying_lengths():
    body = chat()
    for what, request, allowed in [
        ("shorter body, then closed", head("POST", "/v1/completions", "Content-Length: 500") + body, {400, None}),
        ("negative", head("POST", "/v1/completions", "Content-Length: -1") + body, {400}),
        ("not a number", head("POST", "/v1/completions", "Content-Length: 1e3") + body, {400}),
        ("beyond 64 bits", head("POST", "/v1/completions", f"Content-Length: {10**30}") + body, {400, 413}),
        ("close to 64 bits", head("POST", "/v1/completions", f"Content-Length: {2**64 - 1}") + body, {400, 413, 431}),
        ("a terabyte", head("POST", "/v1/completions", f"Content-Length: {10**12}") + body, {413}),
        ("two", head("POST", "/v1/completions", "Content-Length: 5", f"Content-Length: {len(body)}") + body, {400}),
        ("bad chunk", head("POST", "/v1/completions", "Transfer-Encoding: chunked") + b"zz\r\n" + body, {400}),
        ("huge chunk", head("POST", "/v1/completions", "Transfer-Encoding: chunked") + b"f" * 17 + b"\r\n", {400, 413}),
        ("endless chunk line", head("POST", "/v1/completions", "Transfer-Encoding: chunked") + b"1;" + b"a" * 99999, {400}),
        ("unknown coding", head("POST", "/v1/completions", "Transfer-Encoding: gzip") + body, {400, 501}),
    ]:
        found = exchange(request, close=what.startswith("shorter"))
        assert found in allowed, (what, found)
    # What follows a body that is too long for its length is read as another request, and refused.
    with connect() as peer:
        peer.sendall(post(chat()) + b"garbage\r\n\r\n")
        assert statuses(everything(peer)) == [200, 400]
    # With both headers, chunks count (RFC 9112, 6.1), or the request is refused: never two readings of one body.
    with connect() as peer:
        smuggled = head("POST", "/tokenize", "Content-Length: 4", "Transfer-Encoding: chunked") + b"0\r\n\r\n"
        peer.sendall(smuggled + head("GET", "/smuggled", "Connection: close"))
        assert statuses(everything(peer)) in ([400], [400, 404])


@case
def heads_that_are_too_large():
    for what, request in [
        ("one header of 100 kB", head("GET", "/health", "X-A: " + "a" * 100_000)),
        ("a path of 100 kB", head("GET", "/" + "a" * 100_000)),
        ("2000 headers", head("GET", "/health", *[f"X-{i}: a" for i in range(2000)])),
        ("endless", b"GET /health HTTP/1.1\r\n" + b"X-A: b\r\n" * 100_000),
    ]:
        found = exchange(request)
        assert found in (400, 414, 431, None), (what, found)
        say(f"{what}: {found}")


@case
def bodies_that_are_too_large():
    megabyte, size = b" " * (1 << 20), memory()
    assert exchange(head("POST", "/v1/completions", f"Content-Length: {33 << 20}")) == 413
    with connect() as peer:
        peer.sendall(head("POST", "/v1/completions", "Transfer-Encoding: chunked"))
        try:
            for _ in range(40):
                peer.sendall(b"100000\r\n" + megabyte + b"\r\n")
        except OSError:
            pass  # the server has closed the connection
        assert statuses(everything(peer))[:1] in ([413], [])
    sizes = []
    for _ in range(3):
        start = time.monotonic()
        with ThreadPoolExecutor() as pool:
            large = [pool.submit(status_of, chat("fox " * (5 << 20))) for _ in range(6)]
            waits = []
            while not all(one.done() for one in large):
                waits.append(latency())
            found = [one.result() for one in large]
        assert set(found) <= {400, 503}, found
        sizes.append(memory() - size)
        taken = time.monotonic() - start
        say(f"6 prompts of 20 MB at once: {found} in {taken:.1f} s; others waited {max(waits):.2f} s; {sizes[-1]:+.1f} MB")
    assert max(sizes) < 600  # the allocator keeps some, but not more each time


@case
def broken_texts():
    for what, body in [
        ("UTF-8", b'{"messages": [{"role": "user", "content": "\xff\xfe\xc0\x80"}]}'),
        ("surrogate", b'{"messages": [{"role": "user", "content": "\\ud800"}]}'),
        ("control character", b'{"messages": [{"role": "user", "content": "\n"}]}'),
        ("UTF-16", '{"messages": []}'.encode("utf-16")),
        ("mark", b"\xef\xbb\xbf" + chat()),
        ("not an object", b"[1, 2]"),
        ("nothing", b""),
        ("half", chat()[:-5]),
        ("two values", chat() + chat()),
        ("number", chat()[:-1] + b', "seed": 1e999}'),
        ("large number", chat()[:-1] + b', "seed": ' + b"9" * 400 + b"}"),
        ("NaN", chat()[:-1] + b', "temperature": NaN}'),
        ("twice", chat()[:-1] + b', "model": 5}'),
        ("zeros", b"\0" * 1000),
    ]:
        found = status_of(body)
        assert found == 400, (what, found)
    for path in [b"/%ff%fe", b"/v1/models/%00", b"/v1/models/..%2f..%2fetc%2fpasswd", b"/../../etc/passwd", b"/v1/models/%"]:
        found = exchange(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert found in (400, 404), (path, found)
    found = exchange(head("GET", "/health", "Connection: close").replace(b"localhost", b"local\xffhost"))
    assert found in (400, 403), found
    assert status_of(chat(), "/v1/chat/completions", "X-Request-Id: a\tb", "X-Request-Timeout: -1") == 400
    assert status_of(chat(), "/v1/chat/completions", "Content-Encoding: gzip") == 415


@case
def deep_nesting():
    for depth in (100, 1000, 100_000, 5_000_000):
        for body in [b"[" * depth, b'{"messages":' * depth, chat()[:-1] + b', "x": ' + b"[" * depth + b"]" * depth + b"}"]:
            found = status_of(body)
            # A field that the server does not know is skipped, unless it is too deep.
            assert found in {100: (400, 200), 5_000_000: (400, 413)}.get(depth, (400,)), (depth, found)
    for field in ["messages", "stop", "tools", "response_format", "logit_bias", "input", "prompt", "content", "format"]:
        nested = b"[" * 120 + b"]" * 120
        for path in ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat", "/tokenize", "/infill"]:
            body = b'{"max_tokens": 1, "%s": %s}' % (field.encode(), nested)
            assert status_of(body, path) in (400, 501), (field, path)


@case
def pipelined_requests_are_answered_in_order():
    paths = ["/health", "/v1/models", "/nowhere", "/api/version"] * 25
    with connect() as peer:
        peer.sendall(b"".join(head("GET", path) for path in paths) + head("GET", "/ready", "Connection: close"))
        found = statuses(everything(peer))
    assert found == [200, 200, 404, 200] * 25 + [200]
    with connect() as peer:
        peer.sendall(post(chat()) * 8 + head("GET", "/ready", "Connection: close"))
        assert statuses(everything(peer)) == [200] * 9


@case
def other_protocols_and_methods():
    hello = bytes.fromhex("160301020001000001fc0303") + os.urandom(500)
    for what, data in [
        ("TLS", hello),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 50),
        ("noise", os.urandom(5000)),
        ("SSH", b"SSH-2.0-OpenSSH_9\r\n"),
        ("HTTP/9", b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n"),
        ("no version", b"GET /\r\n\r\n"),
        ("no name", b"GET / HTTP/1.1\r\n: a\r\n\r\n"),
        ("folded", b"GET /health HTTP/1.1\r\nHost: localhost\r\n folded: a\r\n\r\n"),
    ]:
        start = time.monotonic()
        found = exchange(data)
        assert found in (400, 403, 505, None), (what, found)
        assert time.monotonic() - start < 5, what
    for method in ["TRACE", "OPTIONS", "PUT", "DELETE", "PATCH", "BREW", "get"]:
        found = exchange(head(method, "/v1/chat/completions", "Content-Length: 0", "Connection: close"))
        assert found == 405, (method, found)
    assert exchange(b"CONNECT evil.example:80 HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n") in (400, 403, 404, 405)
    assert exchange(b"GET /v1/models HTTP/1.0\r\n\r\n") == 403  # no Host
    for host in ["evil.example", "localhost.evil.example", "localhost@evil.example", "127.0.0.1.evil.example"]:
        assert exchange(head("GET", "/v1/models", "Connection: close", host=host)) == 403, host
    for origin in ["http://evil.example", "null", "file://"]:
        found = exchange(head("GET", "/v1/models", f"Origin: {origin}", "Connection: close"))
        assert found == 403, origin


@case
def the_body_is_requested_with_100():
    with connect() as peer:
        body = chat()
        peer.sendall(head("POST", "/v1/chat/completions", "Expect: 100-continue", f"Content-Length: {len(body)}", "Connection: close"))
        peer.settimeout(5)
        assert peer.recv(25).startswith(b"HTTP/1.1 100 ")
        peer.sendall(body)
        assert statuses(everything(peer)) == [200]


@case
def disconnects_leave_nothing():
    wait_until_idle()
    before, size, chance = descriptors(), memory(), random.Random(7)
    requests = [post(chat(f"Story {i}.", stream=bool(i % 2), max_tokens=200)) for i in range(20)]

    def one(i):
        data = requests[i % 20]
        with connect() as peer:
            if i % 5 == 0:  # a reset instead of an orderly end
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.sendall(data[: chance.randrange(1, len(data))] if i % 3 == 0 else data)
            time.sleep(chance.random() * 0.05)

    start = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(1000)))
    taken = time.monotonic() - start
    wait_until_idle(30)
    say(f"1000 disconnects in {taken:.1f} s; idle {time.monotonic() - start - taken:.2f} s later; {memory() - size:+.1f} MB")
    end = time.monotonic() + 5
    while descriptors() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert descriptors() <= before and figure("nanoinfer_free_blocks") == figure("nanoinfer_blocks")


@case
def a_reader_that_stops_is_dropped():
    wait_until_idle()
    size, start = memory(), time.monotonic()
    fields = {"stream": True, "n": 8, "max_tokens": 2000, "ignore_eos": True, "logprobs": True, "top_logprobs": 20}
    with connect(receive=4096) as peer:
        peer.sendall(post(chat(**fields)))
        while figure("nanoinfer_running") == 0:
            time.sleep(0.01)
        most, waits = 0, []
        while time.monotonic() - start < 240 and figure("nanoinfer_running") + figure("nanoinfer_waiting") > 0:
            most = max(most, memory() - size)
            waits.append(latency())
            time.sleep(0.5)
        gone = time.monotonic() - start
        wait_until_idle()
    say(f"dropped after {gone:.0f} s; memory at most {most:+.1f} MB; others waited at most {max(waits):.2f} s")
    assert most < 64


@case
def mutated_requests_never_fail_inside():
    chance = random.Random(11)
    seeds = [
        ("/v1/chat/completions", chat(stop=["a"], logit_bias={"5": 1}, seed=1, top_logprobs=2, logprobs=True, n=2)),
        ("/v1/completions", json.dumps({"prompt": ["a", "b"], "max_tokens": 1, "echo": True, "logprobs": 1}).encode()),
        ("/v1/responses", json.dumps({"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}], "max_output_tokens": 1}).encode()),
        ("/v1/messages", json.dumps({"max_tokens": 1, "system": "a", "messages": [{"role": "user", "content": "b"}]}).encode()),
        ("/v1/messages/count_tokens", json.dumps({"messages": [{"role": "user", "content": "b"}]}).encode()),
        ("/api/chat", json.dumps({"messages": [{"role": "user", "content": "b"}], "options": {"num_predict": 1}}).encode()),
        ("/api/generate", json.dumps({"prompt": "b", "options": {"num_predict": 1}}).encode()),
        ("/tokenize", b'{"content": "a", "with_pieces": true}'),
        ("/detokenize", b'{"tokens": [1, 2, 3]}'),
        ("/apply-template", chat()),
    ]
    values = [b"null", b"-1", b"0", b"1e308", b"-1e-308", b"18446744073709551616", b'""', b"[]", b"{}", b"true", b'"\\u0000"', b"[[]]", b'[{"text":5}]']
    counts = {}

    def mutate(body):
        # A value is replaced by another, or bytes by others.
        if chance.random() < 0.7:
            ends = [i for i, b in enumerate(body) if b in b":[,"]
            at = chance.choice(ends) + 1
            stop = next((i for i in range(at, len(body)) if body[i] in b",]}"), len(body))
            return body[:at] + chance.choice(values) + body[stop:]
        body = bytearray(body)
        for _ in range(chance.randrange(1, 4)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        return bytes(body)

    def one(request):
        path, body = request
        try:
            return status_of(body, path), request
        except TimeoutError:
            return "silence", request

    requests = [(path, mutate(body)) for path, body in (chance.choice(seeds) for _ in range(3000))]
    start = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        for status, request in pool.map(one, requests):
            counts[status] = counts.get(status, 0) + 1
            assert status in (200, 400, 404), (status, request)
    say(f"3000 mutated requests in {time.monotonic() - start:.1f} s: {counts}")


@case
def the_server_still_answers():
    wait_until_idle(30)
    assert call(URL + "/health")[0] == 200
    say(f"{descriptors()} descriptors, {threading.active_count()} threads here, {memory():.1f} MB anonymous memory")


if __name__ == "__main__":
    main()
