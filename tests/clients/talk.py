"""Streams an answer without any client library, and notes when its lines came."""

import http.client
import json
import socket
import time
from urllib.parse import urlparse


class Talk:
    """A request whose answer is read line by line. `times` are those of all lines, after the request was sent. `tokens` are
    the times of the events of OpenAI's APIs, on the clock, and how many tokens there were then."""

    def __init__(self, url, path, body, headers=None, timeout=600):
        place = urlparse(url)
        self.times, self.tokens, self.comments, self.done = [], [], [], False
        self.last_id = None
        self.connection = http.client.HTTPConnection(place.hostname, place.port, timeout=timeout)
        self.data = json.dumps(body)
        self.headers = {"Content-Type": "application/json"} | (headers or {})
        self.path = path

    def open(self):
        """Sends the request, and waits for the head of the response."""
        self.sent = time.monotonic()
        self.connection.request("POST", self.path, self.data, self.headers)
        self.reply = self.connection.getresponse()
        self.status = self.reply.status
        return self

    def send(self):
        """Sends the request only."""
        self.sent = time.monotonic()
        self.connection.request("POST", self.path, self.data, self.headers)
        return self

    def lines(self):
        """The lines of the response, as they come."""
        while line := self.reply.readline():
            if line.strip():
                self.times.append(time.monotonic() - self.sent)
                yield line.decode().rstrip("\r\n")

    def events(self):
        """The data of the events, as they come. Comments go to `comments`, and [DONE] to `done`."""
        for line in self.lines():
            if line.startswith(": "):
                self.comments.append(line[2:])
            elif line.startswith("id: "):
                self.last_id = line[4:]
            elif line == "data: [DONE]":
                self.done = True
            elif line.startswith("data: "):
                event = json.loads(line[6:])
                if event.get("choices") and not event["choices"][0].get("finish_reason"):
                    self.tokens.append((self.sent + self.times[-1], int(self.last_id or 0)))
                yield event

    def close(self):
        """Goes away, from any thread and at any time."""
        if self.connection.sock:
            try:
                self.connection.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        if getattr(self, "reply", None):
            self.reply.close()
        self.connection.close()

    def silence(self):
        """The longest time without a line, in seconds."""
        return max(b - a for a, b in zip([0, *self.times], self.times))


def talk(url, path, body, headers=None):
    """Streams a request that must succeed. Returns the talk and its events."""
    one = Talk(url, path, body | {"stream": True}, headers).open()
    if one.status != 200:
        raise AssertionError((one.status, one.reply.read().decode()))
    events = list(one.events())
    one.close()
    return one, events
