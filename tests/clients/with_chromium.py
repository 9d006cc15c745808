"""The page in Chromium: chats, shows the inside of the server, needs no mouse, and fits narrow screens.

With SCREENSHOTS=FOLDER, pictures of the page are left there. Chromium is found in PATH, or is CHROMIUM; without it,
the cases are skipped.
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from harness import MODEL, URL, case, main
from server import call

PROGRAM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
RULES = "Answer briefly, and say nothing that you do not know. " * 6
THEMES, WIDTHS = ("light", "dark"), (1200, 360)


class Browser:
    """Chromium without a window, controlled through its DevTools protocol over two pipes."""

    def __init__(self):
        self.folder, self.next, self.events, self.rest = tempfile.TemporaryDirectory(), 0, [], b""
        commands, results = os.pipe(), os.pipe()
        # The program reads from 3 and writes to 4, which may be in use here.
        inner = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (commands[0], results[1])]
        command = [PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
                   "--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={self.folder.name}"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False,
            preexec_fn=lambda: (os.dup2(inner[0], 3), os.dup2(inner[1], 4)),
        )
        for fd in (*inner, commands[0], results[1]):
            os.close(fd)
        self.commands, self.results, self.session = commands[1], results[0], None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.commands)
        os.close(self.results)
        shutil.rmtree(self.folder.name, ignore_errors=True)

    def send(self, method, **parameters):
        """Sends a command and returns its result; events meanwhile are kept."""
        self.next += 1
        message = {"id": self.next, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                part = os.read(self.results, 1 << 16)
                assert part, "the browser has ended"
                self.rest += part
            text, _, self.rest = self.rest.partition(b"\0")
            reply = json.loads(text)
            if reply.get("id") == self.next:
                assert "error" not in reply, (method, reply)
                return reply["result"]
            self.events.append(reply)

    def value(self, expression):
        """The value of a JavaScript expression."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, (expression, result)
        return result["result"].get("value")

    def wait(self, expression, seconds=60):
        """Waits until an expression is true, and returns its value."""
        end = time.monotonic() + seconds
        while not (value := self.value(expression)):
            assert time.monotonic() < end, f"still not: {expression}"
            time.sleep(0.02)
        return value

    def press(self, key, code, text=None):
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **({"text": text} if text else {}))

    def open(self, theme="light", width=1200):
        height = 800 if width > 400 else 740
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 400)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        self.send("Page.navigate", url=URL + "/")
        self.wait(f"typeof series === 'object' && [...document.querySelectorAll('#model option')].some(o => o.value === {MODEL!r})")

    def ask(self, text):
        """Sends a message with the keyboard."""
        self.value("document.getElementById('text').focus()")
        self.send("Input.insertText", text=text)
        self.press("Enter", 13, "\r")

    def errors(self):
        """What the console shows, and what was fetched from elsewhere."""
        self.value("1")  # collects what has happened
        bad = [e["params"] for e in self.events if e["method"] == "Runtime.exceptionThrown"]
        entries = [e["params"]["entry"] for e in self.events if e["method"] == "Log.entryAdded"]
        bad += [entry for entry in entries if entry["level"] in ("error", "warning")]
        urls = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return bad + [url for url in urls if not url.startswith((URL, "data:"))]

    def picture(self, name):
        if folder := os.environ.get("SCREENSHOTS"):
            data = self.send("Page.captureScreenshot", format="png")["data"]
            (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(data))


def stream_elsewhere(n):
    """Answers a conversation that begins like that of the page, without a browser."""
    messages = [{"role": "system", "content": RULES}, {"role": "user", "content": "And in winter?"}]
    body = {"model": MODEL, "messages": messages, "max_tokens": n, "ignore_eos": True}
    thread = threading.Thread(target=call, args=(URL + "/v1/chat/completions", body))
    thread.start()
    return thread


@case
def the_page_chats_and_stops():
    with Browser() as page:
        page.open()
        page.value("document.getElementById('seed').value = 3")
        page.ask("Why is the sky blue?")
        page.wait("document.getElementById('log').getAttribute('aria-busy') === 'true'")
        page.wait("document.querySelector('.assistant')?.textContent.length > 3")
        page.press("Escape", 27)
        page.wait("document.getElementById('log').getAttribute('aria-busy') === 'false'")
        page.wait("document.querySelector('.note').textContent.match(/stopped|per second/)")
        assert page.value("document.getElementById('status').textContent") == "The answer has ended"
        assert page.value("document.querySelector('.user').textContent") == "Why is the sky blue?"
        assert not page.errors(), page.errors()


@case
def everything_has_a_name_and_is_reached_by_keyboard():
    with Browser() as page:
        page.open()
        page.wait("series.drawn")
        nodes = page.send("Accessibility.getFullAXTree")["nodes"]
        roles = ("textbox", "spinbutton", "combobox", "button", "meter", "image", "log", "complementary", "status")
        named = {}
        for node in nodes:
            role, name = node.get("role", {}).get("value"), node.get("name", {}).get("value", "")
            if role in roles:
                named.setdefault(role, []).append(name)
        assert len(named["image"]) == 4 and len(named["meter"]) == 1, named
        assert all(name for role, names in named.items() if role != "status" for name in names), named
        assert any("blocks:" in name for name in named["image"]), named
        seen = []
        for _ in range(12):
            seen.append(page.value("document.activeElement.id"))
            page.press("Tab", 9)
        assert {"model", "system", "seed", "temperature", "clear", "log", "text", "send", "inside"} <= set(seen), seen


@case
def it_fits_in_both_themes_while_two_answers_run():
    for theme in THEMES:
        for width in WIDTHS:
            with Browser() as page:
                page.open(theme, width)
                if width < 400:
                    assert page.value("document.getElementById('inside').clientWidth") == 0
                    page.value("document.getElementById('toggle').click()")
                    assert page.value("document.getElementById('toggle').ariaExpanded") == "true"
                page.value(f"document.getElementById('system').value = {RULES.strip()!r}")
                other = stream_elsewhere(200)
                page.ask("How does it rain? Tell me all about clouds, and what they are made of.")
                page.wait("report?.running === 2 && report.uses.shared > 0 && series.gaps.length > 20 && report.pass_bytes > 0")
                page.wait("document.getElementById('shared').textContent === String(report.uses.shared)")
                assert page.value("document.getElementById('memory').value") > 0
                assert page.value("document.getElementById('traffic').textContent").count("GB/s") == 1
                uses = page.value("report.uses")
                assert sum(uses.values()) == page.value("report.blocks"), uses
                assert page.value("document.scrollingElement.scrollWidth <= innerWidth"), (theme, width)
                assert page.value("document.getElementById('text').getBoundingClientRect().bottom <= innerHeight")
                page.picture(f"page-{theme}-{width}")
                page.press("Escape", 27)
                other.join()
                # What has ended remains in the cache, for nobody.
                page.wait("report.running === 0 && report.uses.cached > 0 && report.uses.held + report.uses.shared === 0")
                page.wait("document.getElementById('cached').textContent === String(report.uses.cached)")
                page.picture(f"page-{theme}-{width}-after")
                assert not page.errors(), page.errors()


if __name__ == "__main__":
    if not PROGRAM:
        print("skipped: Chromium is not installed")
        sys.exit()
    main()
