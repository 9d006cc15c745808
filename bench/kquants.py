"""llama.cpp's quantizer, applied to the matrices of a model in memory.

llama.cpp stores K-quants only if rows have a multiple of 256 weights, and otherwise formats with more
bits. For measuring K-quants themselves, shorter rows are joined here. The blocks of 32 weights that have
a scale of their own still never span two rows.
"""

import ctypes
import pathlib

import gguf
import numpy

SIZES = {kind.name: (kind, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}


class Quantizer:
    """`library` is llama.cpp's libggml-base, by default that of llama-cpp-python."""

    def __init__(self, library=None):
        if library is None:
            import llama_cpp

            library = pathlib.Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"
        self.ggml = ctypes.CDLL(str(library))
        self.ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.ggml.ggml_version.restype = self.ggml.ggml_commit.restype = ctypes.c_char_p
        self.version = f"ggml {self.ggml.ggml_version().decode()} ({self.ggml.ggml_commit().decode()})"

    def rounded(self, weights, kind, importance=None):
        """The rows of a float32 array as `kind` represents them, and its bits per weight."""
        kind, block, size = SIZES[kind]
        rows, width = weights.shape
        joined = numpy.lcm(width, block) // width
        assert width % 32 == 0 and rows % joined == 0, f"rows of {width} cannot be joined"
        if importance is not None:
            importance = numpy.tile(importance.astype(numpy.float32), joined)
        weights = numpy.ascontiguousarray(weights, dtype=numpy.float32)
        out = numpy.empty(weights.size // block * size, dtype=numpy.uint8)
        shape = ctypes.c_int64(rows // joined), ctypes.c_int64(width * joined)
        self.ggml.ggml_quantize_init(int(kind))
        written = self.ggml.ggml_quantize_chunk(
            int(kind), pointer(weights), pointer(out), ctypes.c_int64(0), *shape, pointer(importance)
        )
        assert written == out.size
        return gguf.quants.dequantize(out, kind).reshape(rows, width), 8 * size / block


def pointer(array):
    return None if array is None else array.ctypes.data_as(ctypes.c_void_p)


def encoding(file_type, role, layer, layers, group, matrix):
    """The encoding that llama.cpp chooses for a matrix of a dense model.

    `role` is the last part of the name in transformers, `group` the number of query heads for each KV head,
    `matrix` whether there is an importance matrix. See llama_tensor_get_type in llama.cpp.
    """
    if role in ("embed_tokens", "lm_head"):
        return "Q6_K"
    eighth = layers // 8
    often = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
    v, down, o = (role == name for name in ("v_proj", "down_proj", "o_proj"))
    if file_type in ("Q4_K_M", "Q5_K_M"):
        return "Q6_K" if (v or down) and often else file_type[:4]
    if file_type == "IQ4_XS":
        more = v and group >= 4 or down and layer < eighth and not matrix
        return "Q5_K" if more else "IQ4_XS"
    if file_type == "Q3_K_M":
        more = v and layer < 2 or down and layer < layers // 16
        return "Q5_K" if more else "Q4_K" if v or down or o else "Q3_K"
    assert file_type == "Q2_K", file_type
    return "Q4_K" if v and group >= 4 else "Q3_K" if v or down or o else "Q2_K"
