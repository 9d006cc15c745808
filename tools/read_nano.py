#!/usr/bin/env python3
"""Reads the weights of a .nano file as docs/FORMAT.md describes them, and compares them with their source.

    python3 tools/read_nano.py FILE.nano MODEL.safetensors

Prints, as JSON, for each tensor of matrices the square root of the ratio of summed squared errors to summed
squared weights, as `nanoinfer inspect --against` does. It shares no code with NanoInfer and needs only
Python: tests/format.rs uses it to show that FORMAT.md suffices to write a reader. It is for models of the
Llama family without experts, and too slow for anything but tiny ones.
"""

import array
import json
import math
import pathlib
import struct
import sys

# Encodings.
F32_PANEL, Q8 = 2, 3
BITS = {5: 5, 6: 4, 7: 3, 8: 2}
LEVELS = {
    5: "1 3 5 8 10 12 14 16 19 21 23 26 28 31 34 36 39 42 44 47 51 54 58 61 65 70 75 81 87 96 107 127",
    4: "3 7 13 18 23 28 34 40 46 52 60 68 77 89 104 127",
    3: "6 17 29 42 55 71 93 127",
    2: "13 41 73 127",
}
LEVELS = {bits: [int(level) for level in text.split()] for bits, text in LEVELS.items()}
LEVELS = {bits: [-level for level in reversed(half)] + half for bits, half in LEVELS.items()}

# Roles, with their names in the source.
ATTN_QKV, ATTN_OUTPUT, ATTN_V = 17, 19, 66
NAMES = {1: "token_embd", 2: "output", 17: "attn_qkv", 19: "attn_output", 33: "ffn_gate_up", 35: "ffn_down"}
SOURCES = {
    1: "model.embed_tokens",
    2: "lm_head",
    19: "self_attn.o_proj",
    35: "mlp.down_proj",
    64: "self_attn.q_proj",
    65: "self_attn.k_proj",
    66: "self_attn.v_proj",
    67: "mlp.gate_proj",
    68: "mlp.up_proj",
}


def main():
    nano, source = Nano(sys.argv[1]), safetensors(sys.argv[2])
    errors = {}
    for tensor in nano.tensors:
        if tensor["role"] not in NAMES:
            continue
        layer = tensor["layer"]
        squares = [0.0, 0.0]
        for role, matrix in nano.matrices(tensor):
            place = "" if layer is None else f"model.layers.{layer}."
            expected = source[f"{place}{SOURCES[role]}.weight"]
            assert len(matrix) == len(expected)
            for stored, weights in zip(matrix, expected):
                squares[0] += math.dist(stored, weights) ** 2
                squares[1] += math.hypot(*weights) ** 2
        label = NAMES[tensor["role"]] + ("" if layer is None else f" {layer}")
        errors[label] = math.sqrt(squares[0] / squares[1])
    print(json.dumps(errors))


class Nano:
    """Header, config and tensor table of a file."""

    def __init__(self, path):
        self.bytes = pathlib.Path(path).read_bytes()
        assert self.bytes[:8] == b"\x93NANO\r\n\x1a" and self.number(8) == 2, "not a .nano file of version 2"
        self.sections = {}
        (table,) = struct.unpack_from("<Q", self.bytes, 96)
        for at in range(table, table + 64 * self.number(104), 64):
            offset, length = struct.unpack_from("<QQ", self.bytes, at + 8)
            self.sections[self.number(at)] = range(offset, offset + length)
        config = self.sections[1]
        self.config = json.loads(self.bytes[config.start : config.stop])
        self.tensors = [self.tensor(at) for at in self.sections[6][::192]]

    def number(self, at):
        return struct.unpack_from("<I", self.bytes, at)[0]

    def tensor(self, at):
        """A row of the tensor table."""
        field = lambda offset: self.number(at + offset)
        offset, length = struct.unpack_from("<QQ", self.bytes, at + 72)
        encodings = struct.unpack_from("<4H", self.bytes, at + 184)
        parts = []
        for i in range(field(28)):
            role, rows, blocks, block_rows = struct.unpack_from("<4I", self.bytes, at + 120 + 16 * i)
            part = {"role": role, "n": rows, "blocks": blocks, "rows": block_rows}
            parts.append(part | {"encoding": encodings[i] or field(8)})
        return {
            "role": field(0),
            "layer": None if field(4) == 0xFFFFFFFF else field(4),
            "encoding": field(8),
            "rotation": field(12),
            "states": field(20),
            "logical": [field(32 + 4 * i) for i in range(3)],
            "stored": [field(44 + 4 * i) for i in range(3)],
            "repeat": field(56),
            "spread": (field(60), field(64)),
            "bytes": self.bytes[offset : offset + length],
            "parts": parts,
        }

    def matrices(self, tensor):
        """The original matrices of a tensor: their roles and rows."""
        rows = self.rows(tensor)
        parts = tensor["parts"]
        if not parts:
            yield tensor["role"], rows[: tensor["logical"][1]]
        for part in parts:
            numbers = zip(placed(tensor), rows)
            matrix = [row for (owner, number), row in numbers if owner is part and number is not None]
            if part["role"] == ATTN_V:
                matrix = self.without_value_rotation(matrix)
            yield part["role"], matrix

    def rows(self, tensor):
        """All stored rows, in the original basis of the inputs and without their padding."""
        inputs, stored = tensor["logical"][2], tensor["stored"][2]
        a, b = tensor["spread"]
        place = [j // a * b + j % a for j in range(inputs)] if a else range(inputs)
        encodings = [tensor["encoding"]] * (tensor["stored"][1] // 16)
        if tensor["parts"]:
            encodings = [part["encoding"] for part, _ in placed(tensor)[::16]]
        rows, at = [], 0
        for encoding in encodings:
            length = panel_length(encoding, stored)
            panel = tensor["bytes"][at : at + length]
            at += length
            rotated = encoding != F32_PANEL or tensor["role"] == ATTN_OUTPUT
            for row in decode(panel, encoding, stored):
                row = rotate(row, tensor["rotation"]) if rotated else row
                rows.append([row[k] for k in place])
        assert at == len(tensor["bytes"])
        return rows

    def without_value_rotation(self, rows):
        columns = [rotate(column, self.config["value_rotation"]) for column in zip(*rows)]
        return [list(row) for row in zip(*columns)]


def placed(tensor):
    """For each stored row of a fused tensor, its part and its number there, which is None for padding."""
    places = []
    for unit in range(tensor["repeat"]):
        for part in tensor["parts"]:
            for block in range(part["blocks"]):
                first = (unit * part["blocks"] + block) * part["rows"]
                have = max(0, min(part["rows"], part["n"] - first))
                places += [(part, first + i) for i in range(have)]
                places += [(part, None)] * (-(-part["rows"] // 16) * 16 - have)
    assert len(places) == tensor["stored"][1]
    return places


def panel_length(encoding, inputs):
    if encoding == F32_PANEL:
        return 64 * inputs
    return 16 * (inputs + 4) if encoding == Q8 else 2 * inputs * BITS[encoding] + 64


def decode(panel, encoding, inputs):
    """The 16 rows of a panel, still rotated."""
    if encoding == F32_PANEL:
        values = struct.unpack(f"<{16 * inputs}f", panel)
        return [values[r::16] for r in range(16)]
    scales = struct.unpack_from("<16f", panel)
    if encoding == Q8:
        byte = lambda r, k: panel[64 + 64 * (k // 4) + 4 * r + k % 4]
        levels = [[byte(r, k) - 128 for k in range(inputs)] for r in range(16)]
    else:
        levels = [trellis(panel, BITS[encoding], r, inputs) for r in range(16)]
    return [[scale * level for level in row] for scale, row in zip(scales, levels)]


def trellis(panel, bits, r, inputs):
    """The levels of row `r`."""
    codes = [code(panel, bits, r, k) for k in range(inputs)]
    before = lambda k: codes[k] & 1 if k >= 0 else 0
    levels = []
    for k, value in enumerate(codes):
        index = 4 * (value >> 1) + 2 * (before(k) ^ before(k - 8) ^ before(k - 32)) + before(k - 16)
        levels.append(LEVELS[bits][index])
    return levels


def code(panel, bits, r, k):
    line, t = divmod(k, 4)
    byte = lambda number: panel[64 * (1 + number) + 4 * r + t]
    if bits == 4:
        return byte(line // 2) >> 4 * (line % 2) & 15
    block, l = bits * (line // 8), line % 8
    if bits == 5:
        c = byte(block + 1 + l // 2) >> 4 * (l % 2) & 15
    elif bits == 3:
        c = byte(block + 1 + l % 2) >> 2 * (l // 2) & 3
    else:
        c = byte(block + 1) >> l & 1
    return 2 * c + (byte(block) >> l & 1)


def rotate(values, size):
    """Every `size` values multiplied by the orthonormal Walsh-Hadamard matrix."""
    out = list(values)
    half = 1
    while half < size:
        for start in range(0, len(out), 2 * half):
            for i in range(start, start + half):
                x, y = out[i], out[i + half]
                out[i], out[i + half] = x + y, x - y
        half *= 2
    return [x / math.sqrt(size) for x in out]


def safetensors(path):
    """The bfloat16 matrices of a file, as lists of rows."""
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    matrices = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if len(entry.get("shape", [])) == 2:
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            assert entry["dtype"] == "BF16", f"{path}: {name} is not in bfloat16"
            # The upper halves of float32 values.
            halves = (b"\0\0" + data[i : i + 2] for i in range(start, end, 2))
            values = array.array("f", b"".join(halves))
            width = entry["shape"][1]
            matrices[name] = [values[i : i + width] for i in range(0, len(values), width)]
    return matrices


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main()
