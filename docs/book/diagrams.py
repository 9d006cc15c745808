#!/usr/bin/env python3
"""Draws the book's diagrams: docs/book/src/*.svg. Needs nothing but Python.

    docs/book/diagrams.py            draw
    docs/book/diagrams.py --check    fail if a picture differs from the script's output
"""

import math
import pathlib
import sys

HERE = pathlib.Path(__file__).parent / "src"
INK, GREY, FAINT = "#1f2937", "#6b7280", "#e5e7eb"
OURS, BLUE, PALE, WARM = "#c2410c", "#1d4ed8", "#dbeafe", "#ffedd5"


class Picture:
    def __init__(self, width, height):
        self.width, self.height, self.parts = width, height, []

    def rect(self, x, y, w, h, fill="none", stroke=INK, width=1.0, radius=0):
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{radius}" '
            f'fill="{fill}" stroke="{stroke}" stroke-width="{width}"/>'
        )

    def line(self, points, stroke=INK, width=1.5, dash=None, arrow=False):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        extra += ' marker-end="url(#arrow)"' if arrow else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="{width}"{extra}/>'
        )

    def dot(self, x, y, fill=OURS, r=4.5):
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" fill="{fill}"/>')

    def text(self, x, y, what, size=13, fill=INK, anchor="start", weight="normal", turn=None):
        turned = f' transform="rotate({turn} {x:g} {y:g})"' if turn is not None else ""
        what = what.replace("&", "&amp;").replace("<", "&lt;")
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" '
            f'font-weight="{weight}"{turned}>{what}</text>'
        )

    def svg(self):
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" font-family="DejaVu Sans, sans-serif">'
        )
        arrow = (
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{GREY}"/></marker></defs>'
        )
        white = f'<rect width="{self.width}" height="{self.height}" fill="white"/>'
        return "\n".join([head, arrow, white, *self.parts, "</svg>"]) + "\n"


def memory_wall():
    """A roofline with rounded numbers of a typical machine."""
    p = Picture(640, 330)
    bandwidth, peak = 33e9, 13e12

    def at(ops_per_byte, ops):
        return 70 + 78 * math.log2(ops_per_byte) / 1.7, 285 - 18.5 * math.log2(ops / 2e10)

    ridge = peak / bandwidth
    p.line([(70, 20), (70, 285), (610, 285)], GREY, 1)
    p.line([at(1, bandwidth), at(ridge, peak), at(2800, peak)], INK, 2.5)
    x, y = at(7, 7 * bandwidth)
    p.text(x - 4, y - 12, "memory: 33 GB/s", turn=-22)
    x, y = at(ridge, peak)
    p.text(x - 6, y - 10, "multipliers: 13 TOPS", anchor="start")
    p.line([(x, y), (x, 285)], GREY, 1, dash="3 4")
    p.text(x, 302, f"{ridge:.0f}", 11, GREY, "middle")
    for ops, name, dx, dy in [(2, "one token", 10, 16), (8, "4 sequences", 10, 16)]:
        px, py = at(ops, 0.92 * ops * bandwidth)
        p.dot(px, py)
        p.text(px + dx, py + dy, name, 12, OURS)
        p.text(px, 302, str(ops), 11, GREY, "middle")
    px, py = at(512, 1.9e12)
    p.dot(px, py)
    p.text(px - 8, py + 22, "prompt", 12, OURS)
    p.text(340, 322, "operations per byte read from memory (logarithmic)", 12, GREY, "middle")
    p.text(58, 150, "operations per second", 12, GREY, "middle", turn=-90)
    return p


def tiles():
    p = Picture(640, 300)
    p.text(40, 24, "one panel of weights: 16 rows", 13, weight="bold")
    for j in range(6):
        x = 40 + 46 * j
        p.rect(x, 40, 42, 128, PALE if j != 2 else WARM, BLUE if j != 2 else OURS)
        for r in range(1, 16):
            p.line([(x, 40 + 8 * r), (x + 42, 40 + 8 * r)], "#bfdbfe" if j != 2 else "#fdba74", 0.5)
    p.text(40, 186, "one line, 64 bytes: 4 inputs of each row", 12, GREY)
    p.line([(40, 206), (316, 206)], GREY, 1.2, arrow=True)
    p.text(40, 224, "read once from memory, in this order", 12, GREY)
    p.text(400, 24, "16 registers of 16 sums", 13, weight="bold")
    for m in range(16):
        p.rect(400 + 14 * m, 40, 11, 128, WARM, OURS)
        for r in range(1, 16):
            p.line([(400 + 14 * m, 40 + 8 * r), (411 + 14 * m, 40 + 8 * r)], "#fdba74", 0.5)
        p.rect(400 + 14 * m, 206, 11, 30, "white", INK)
        p.line([(405.5 + 14 * m, 204), (405.5 + 14 * m, 172)], GREY, 1, arrow=True)
    p.text(400, 254, "4 inputs of each of 16 tokens,", 12, GREY)
    p.text(400, 271, "broadcast to all 16 rows", 12, GREY)
    p.line([(322, 104), (392, 104)], GREY, 1.2, arrow=True)
    return p


def rotation():
    p = Picture(640, 270)
    x = [math.sin(i * i) for i in range(64)]
    x[20] = 9.0
    y = list(x)
    h = 1
    while h < 64:
        for i in range(64):
            if not i & h:
                y[i], y[i + h] = y[i] + y[i + h], y[i] - y[i + h]
        h *= 2
    y = [v / 8 for v in y]
    for values, left, title in [(x, 20, "original"), (y, 335, "rotated")]:
        top, bottom = 40, 220
        middle, scale = (top + bottom) / 2, (bottom - top) / 2 / 9.0
        step = max(map(abs, values)) / 6
        p.text(left, 24, title, 13, weight="bold")
        for n in range(-6, 7):
            if abs(n * step) <= 9:
                p.line([(left, middle - n * step * scale), (left + 285, middle - n * step * scale)],
                       FAINT, 1)
        for i, v in enumerate(values):
            high = abs(v) * scale
            p.rect(left + 4.4 * i, middle - (high if v > 0 else 0), 3.2, high, OURS if i == 20 and
                   values is x else BLUE, "none", 0)
        p.text(left, 244, f"largest {max(map(abs, values)):.1f}; the lines show the steps", 12, GREY)
        p.text(left, 260, "of a 13-level grid; 8 bits have 255", 12, GREY)
    return p


def trellis():
    """The code of the chapter's example: 2 bits, 4 states."""
    levels = [-127, -73, -41, -13, 13, 41, 73, 127]
    weights = [22, -66, 104, -30, 60, -80, 35]
    halves = [(BLUE, PALE), (OURS, WARM)]

    def step(code, state):
        c, b, b1, b2 = code >> 1, code & 1, state >> 1, state & 1
        return levels[4 * c + 2 * (b ^ b2) + b1], 2 * b + b1

    paths = {0: (0, [])}  # per state: error, steps
    for w in weights:
        ahead = {}
        for state, (error, path) in paths.items():
            for code in range(4):
                level, to = step(code, state)
                total = error + (w - level) ** 2
                if to not in ahead or total < ahead[to][0]:
                    ahead[to] = (total, path + [(state, level, to)])
        paths = ahead
    best = min(paths.values())[1]

    p = Picture(640, 400)
    p.text(20, 24, "eight levels in two halves", 13, weight="bold")
    at = lambda level: 330 + 2.1 * level
    for half, y in enumerate([58, 96]):
        p.line([(50, y), (610, y)], FAINT, 1)
        p.text(20, y + 4, f"b₁={half}", 11, GREY)
        for i in range(half, 8, 2):
            p.dot(at(levels[i]), y, halves[half][0], 6)
            p.text(at(levels[i]), y - 11, str(levels[i]), 11, halves[half][0], "middle")
    p.text(20, 138, "a path through the states b₁b₂", 13, weight="bold")
    x, y = lambda i: 70 + 76 * i, lambda state: 170 + 42 * state
    for i in range(len(weights)):
        for state in range(4) if i > 1 else {0} if i == 0 else {0, 2}:
            for to in {step(code, state)[1] for code in range(4)}:
                p.line([(x(i), y(state)), (x(i + 1), y(to))], FAINT, 1.5)
    for i, (state, level, to) in enumerate(best):
        colour = halves[state >> 1][0]
        p.line([(x(i), y(state)), (x(i + 1), y(to))], colour, 3)
        p.text(x(i) + 38, 340, str(weights[i]), 12, INK, "middle")
        p.text(x(i) + 38, 360, str(level), 12, colour, "middle", "bold")
    for i in range(len(weights) + 1):
        for state in range(4):
            p.dot(x(i), y(state), halves[state >> 1][0], 4)
    for state in range(4):
        p.text(34, y(state) + 4, f"{state >> 1}{state & 1}", 12, halves[state >> 1][0], "middle")
    p.text(20, 340, "weight", 11, GREY)
    p.text(20, 360, "level", 11, GREY)
    p.text(20, 388, "two codes lead from a state to each of two others; the cheapest path is kept", 12, GREY)
    return p


def feedback():
    p = Picture(640, 290)
    unit, ox, oy = 66, 200, 175
    at = lambda a, b: (ox + unit * a, oy - unit * b)
    rho, w = 0.9, 0.4  # H = [[1, rho], [rho, 1]], and both weights
    cost = lambda a, b: (w - a) ** 2 + 2 * rho * (w - a) * (w - b) + (w - b) ** 2
    for n in range(-1, 3):
        p.line([at(n, -1.4), at(n, 2.4)], FAINT, 1)
        p.line([at(-1.6, n), at(2.6, n)], FAINT, 1)
    for a, b, colour in [(0, 0, GREY), (0, 1, OURS)]:
        # Radii in the directions (1, 1) and (1, -1), in which H has the eigenvalues 1 ± rho.
        u, v = math.sqrt(cost(a, b) / (1 + rho) / 2), math.sqrt(cost(a, b) / (1 - rho) / 2)
        turn = [(math.cos(math.pi * i / 60), math.sin(math.pi * i / 60)) for i in range(121)]
        p.line([at(w + u * x + v * y, w + u * x - v * y) for x, y in turn], colour, 1.5)
    for a in range(-1, 3):
        for b in range(-1, 3):
            p.dot(*at(a, b), INK, 3)
    for (a, b), colour, size in [((0, 0), GREY, 6), ((0, 1), OURS, 6), ((w, w), BLUE, 5)]:
        p.dot(*at(a, b), colour, size)
    for y, colour, what in [
        (60, BLUE, "the weights, (0.4, 0.4)"),
        (90, GREY, "nearest integers, (0, 0): cost 0.608"),
        (120, OURS, "with shifted target, (0, 1): cost 0.088"),
    ]:
        p.dot(382, y - 4, colour, 5)
        p.text(394, y, what, 11.5)
    p.text(376, 160, "curves: all errors of the same cost", 11.5, GREY)
    p.text(ox + unit / 2, 284, "first weight", 11, GREY, "middle")
    p.text(84, oy - unit / 2, "second weight", 11, GREY, "middle", turn=-90)
    return p


def cache():
    p = Picture(640, 250)
    p.text(20, 24, "tables", 13, weight="bold")
    colours = [WARM, PALE]
    tables = [(60, [5, 2, 9], "sequence A"), (150, [0, 3], "sequence B")]
    p.text(360, 24, "arena: blocks of 64 positions", 13, weight="bold")
    owner = {b: i for i, (_, blocks, _) in enumerate(tables) for b in blocks}
    position = lambda b: (360 + 52 * (b % 5), 60 + 90 * (b // 5))
    for b in range(10):
        x, y = position(b)
        p.rect(x, y, 46, 56, colours[owner[b]] if b in owner else "white", INK if b in owner else GREY)
        p.text(x + 23, y + 33, str(b), 13, INK if b in owner else GREY, "middle")
    for i, (y, blocks, name) in enumerate(tables):
        p.text(20, y + 20, name, 12)
        for n, b in enumerate(blocks):
            x = 110 + 62 * n
            p.rect(x, y, 54, 30, colours[i])
            p.text(x + 27, y + 20, str(b), 13, anchor="middle")
            p.text(x + 27, y + 45, f"{64 * n}–{64 * n + 63}", 10, GREY, "middle")
    p.text(360, 234, "white: free", 12, GREY)
    return p


def attention():
    p = Picture(640, 240)
    p.text(20, 24, "positions 0 … 1300 of one head", 13, weight="bold")
    left, unit = 20, 600 / 1536
    for span in range(3):
        x = left + span * 512 * unit
        last = 1300
        p.rect(x, 44, 512 * unit - 6, 46, "white", BLUE if span < 2 else GREY)
        for block in range(8):
            start = span * 512 + block * 64
            seen = min(max(last - start, 0), 64)
            if seen:
                p.rect(x + 4 + block * 23.8, 52, 21.5 * seen / 64, 30, PALE, BLUE, 0.8)
        p.text(x + 4, 106, f"span {span}: {512 * span}–{512 * span + 511}", 11, GREY)
        p.line([(x + 95, 112), (x + 95, 140)], GREY, 1.2, arrow=True)
        p.rect(x + 40, 144, 110, 26, WARM, OURS, radius=4)
        p.text(x + 95, 161, "max, sum, value", 11, anchor="middle")
    p.line([(115, 172), (115, 200), (512, 200)], GREY, 1.2, arrow=True)
    p.line([(left + 512 * unit + 95, 172), (left + 512 * unit + 95, 197)], GREY, 1.2, arrow=True)
    p.line([(left + 1024 * unit + 95, 172), (left + 1024 * unit + 95, 197)], GREY, 1.2, arrow=True)
    p.text(20, 224, "blocks of a span: in order · spans: on any thread, merged in order", 12, GREY)
    return p


def states():
    p = Picture(640, 250)
    p.text(40, 24, "attention: a cache", 13, weight="bold")
    for t in range(5):
        y = 44 + 38 * t
        p.text(40, y + 15, f"token {t + 1}" if t < 4 else "...", 12, GREY)
        for i in range(t + 1 if t < 4 else 9):
            p.rect(104 + 20 * i, y, 16, 20, WARM if i == t and t < 4 else PALE, OURS if i == t and t < 4 else BLUE)
    p.text(104, 238, "read as a whole for each token", 12, GREY)
    p.text(400, 24, "a recurrent layer: a state", 13, weight="bold")
    for t in range(5):
        y = 44 + 38 * t
        for r in range(2):
            for c in range(4):
                p.rect(400 + 16 * c, y + 10 * r, 16, 10, PALE, BLUE)
        if t < 4:
            p.text(480, y + 15, "decays, key ⊗ value is added", 12, GREY)
            p.line([(432, y + 20), (432, y + 36)], GREY, 1.2, arrow=True)
    p.text(400, 238, "as large at each position", 12, GREY)
    return p


def speculation():
    p = Picture(640, 250)
    rows = [
        ("drafted", ["the", "cat", "sat", "on", "a"], 60),
        ("sampled", ["the", "cat", "sat", "in", "the"], 130),
    ]
    for name, words, y in rows:
        p.text(20, y + 24, name, 13, weight="bold")
        for i, word in enumerate(words):
            good = i < 3
            kept = name == "sampled" and i <= 3
            fill = WARM if kept else ("white" if name == "sampled" else PALE)
            p.rect(110 + 100 * i, y, 84, 36, fill, OURS if kept else (BLUE if fill == PALE else GREY))
            p.text(152 + 100 * i, y + 23, word, 13, INK if good or kept else GREY, "middle")
    for i in range(5):
        mark = "=" if i < 3 else ("≠" if i == 3 else "")
        p.text(152 + 100 * i, 119, mark, 16, OURS if i < 3 else INK, "middle")
    p.text(110, 30, "one pass over the weights for all five positions", 13, GREY)
    p.text(110, 200, "four tokens gained: three correct guesses, and the sampled token in place of", 12, GREY)
    p.text(110, 218, "the wrong one; the rest is rolled back", 12, GREY)
    return p


def turns():
    p = Picture(640, 250)
    for top, title, order in [
        (40, "consecutive: B seems slower", "AAAAABBBBB"),
        (150, "interleaved: equal conditions for both", "ABABABABAB"),
    ]:
        p.text(20, top - 12, title, 13, weight="bold")
        for i, engine in enumerate(order):
            height = 58 if i < 5 else 34
            x = 20 + 60 * i
            p.rect(x, top + 64 - height, 50, height, WARM if engine == "A" else PALE,
                   OURS if engine == "A" else BLUE)
            p.text(x + 25, top + 58, engine, 13, anchor="middle")
    p.line([(317, 20), (317, 232)], GREY, 1, dash="3 4")
    p.text(323, 244, "someone starts a compiler", 11, GREY)
    return p


PICTURES = {
    "memory-wall": memory_wall,
    "tiles": tiles,
    "rotation": rotation,
    "trellis": trellis,
    "feedback": feedback,
    "cache": cache,
    "attention": attention,
    "states": states,
    "speculation": speculation,
    "turns": turns,
}


def main():
    check = sys.argv[1:] == ["--check"]
    stale = []
    for name, draw in PICTURES.items():
        path, svg = HERE / f"{name}.svg", draw().svg()
        if not check:
            path.write_text(svg)
        elif not path.exists() or path.read_text() != svg:
            stale.append(path.name)
    if stale:
        sys.exit(f"run docs/book/diagrams.py: {', '.join(stale)} are out of date")


if __name__ == "__main__":
    main()
