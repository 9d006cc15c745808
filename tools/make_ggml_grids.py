#!/usr/bin/env python3
"""Writes crates/packer/src/dequant/grids.bin: the points of ggml's lattices (IQ1, IQ2, IQ3), a 16-bit number
each, little-endian. The value at position j of a point of 8 is the table's entry at bits 2j and 2j + 1; of a
point of 4, at bits 3j to 3j + 2. Order: IQ2_XXS (256), IQ2_XS (512), IQ2_S (1024), IQ3_XXS (256), IQ3_S (512),
IQ1_S (2048, also IQ1_M).

The lattices are those of ggml (https://github.com/ggml-org/ggml, MIT licence, © the ggml authors), as in the
gguf package. Run with gguf 0.19 and NumPy:

    python3 make_ggml_grids.py
"""
import os

import numpy as np
from gguf import quants

OUT = os.path.join(os.path.dirname(__file__), "../crates/packer/src/dequant/grids.bin")

points = []
for kind in (quants.IQ2_XXS, quants.IQ2_XS, quants.IQ2_S, quants.IQ3_XXS, quants.IQ3_S, quants.IQ1_S):
    kind.init_grid()
    size, width = kind.grid_shape
    values = kind.grid.reshape(size, width)
    table = np.array(kind.grid_map, np.float32)
    index = np.argmax(values[..., None] == table, axis=-1).astype(np.uint16)
    assert (table[index] == values).all()
    bits = {8: 2, 4: 3}[width]
    points.append((index << np.arange(0, bits * width, bits, dtype=np.uint16)).sum(axis=1))
data = np.concatenate(points).astype("<u2").tobytes()
assert len(data) == 2 * 4608
with open(OUT, "wb") as file:
    file.write(data)
