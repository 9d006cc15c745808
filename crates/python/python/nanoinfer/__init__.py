"""Runs language models on CPUs, with the same tokens on every machine and startup in milliseconds.

>>> import nanoinfer
>>> model = nanoinfer.Model.open("smollm2")
>>> answer = model.chat("What is the capital of France?", temperature=0)
>>> "Paris" in answer.text
True

Any number of threads and tasks use a model at once: their requests share every pass of the engine, and each has the
same answer as alone. Errors are `NanoInferError`, of which a `RequestError` is one that the caller can avoid.
"""

from ._answer import Answer, Chunk, Stream, AsyncStream, TokenLogprob, ToolCall
from ._convert import convert
from ._core import BusyError, NanoInferError, RequestError, __version__
from ._model import Model, Server

__all__ = [
    "Answer",
    "AsyncStream",
    "BusyError",
    "Chunk",
    "Model",
    "NanoInferError",
    "RequestError",
    "Server",
    "Stream",
    "TokenLogprob",
    "ToolCall",
    "__version__",
    "convert",
]
