#!/usr/bin/env python3
"""Makes docs/chat.png: the real chat in tmux, captured while it answers.

    python3 -m venv venv && venv/bin/pip install rich resvg-py
    venv/bin/python tools/chat_picture.py target/release/nanoinfer docs/chat.png

Needs tmux and the DejaVu Sans Mono font.
"""

import os
import re
import subprocess
import sys
import time

import resvg_py
from rich.console import Console
from rich.text import Text

COLUMNS, ROWS = 110, 34
OPTIONS = "--temp 0.6 --top-p 0.9 --repeat-penalty 1.1 --seed 5 --system 'Answer in Markdown.'"
FIRST = "How do I sort a list in Python? Use a heading, a list and a code block."
SECOND = "And how do I reverse it?"


def tmux(*args):
    return subprocess.run(["tmux", *args], check=True, capture_output=True, text=True).stdout


def wait_for(text, seconds=30):
    for _ in range(seconds * 50):
        if text in tmux("capture-pane", "-p", "-t", "picture"):
            return
        time.sleep(0.02)
    sys.exit(f"{text!r} did not appear")


def capture(program):
    command = f"NANOINFER_HISTORY= TERM=xterm-256color {program} chat {OPTIONS}"
    size = ["-x", str(COLUMNS), "-y", str(ROWS)]
    tmux("new-session", "-d", "-s", "picture", *size, command)
    try:
        tmux("set", "-t", "picture", "status", "off")
        wait_for("ready")
        time.sleep(3)  # wait until the memory bandwidth has been measured
        tmux("send-keys", "-t", "picture", "F2")
        tmux("send-keys", "-t", "picture", FIRST, "Enter")
        wait_for("reused")
        time.sleep(1)
        tmux("send-keys", "-t", "picture", SECOND, "Enter")
        wait_for("answering")
        time.sleep(0.7)
        return tmux("capture-pane", "-p", "-e", "-t", "picture")
    finally:
        tmux("kill-session", "-t", "picture")


def main():
    program, out = sys.argv[1:]
    screen = capture(os.path.abspath(program))
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))
    for line in screen.rstrip("\n").split("\n"):
        console.print(Text.from_ansi(line), no_wrap=True, crop=True)
    svg = console.export_svg(title="nanoinfer chat")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.S).replace("Fira Code", "DejaVu Sans Mono")
    with open(out, "wb") as file:
        file.write(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=1400)))


main()
