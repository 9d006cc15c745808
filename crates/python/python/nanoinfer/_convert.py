"""Conversion to `.nano` files."""

from __future__ import annotations

import os
import tempfile
from typing import Any, Callable

from . import _core


def convert(
    source: Any,
    out: str | os.PathLike[str],
    *,
    tokenizer: Any = None,
    quant: str = "auto",
    calibrate: bool = True,
    status: Callable[..., object] | None = None,
) -> None:
    """Writes a model as a `.nano` file, which appears only when it is complete.

    `source` is a Hugging Face folder, a GGUF file, a hub id, `smollm2`, or a model of `transformers` in memory, whose
    `tokenizer` is then given too; it is saved to a temporary folder first. `quant` is `q8`, `q5`, `q4`, `q3`, `q2`,
    `f32`, bits per weight such as `4.25`, or `auto`: `q8`, or `q5` from a billion parameters. Less than 8 bits are
    calibrated unless `calibrate` is false, which takes minutes. `status` is called with a message, or with what is
    done and the total.
    """
    if isinstance(source, (str, os.PathLike)):
        if tokenizer is not None:
            raise TypeError("a tokenizer is for a model in memory; a folder has its own")
        _core.convert(os.fspath(source), os.fspath(out), quant, calibrate, status)
        return
    if not hasattr(source, "save_pretrained"):
        raise TypeError(f"expected a path, a hub id or a model of transformers, not {type(source).__name__}")
    folder = os.path.dirname(os.path.abspath(os.fspath(out)))
    # Beside the file, where there has to be room for it anyway.
    with tempfile.TemporaryDirectory(prefix=".nanoinfer-", dir=folder) as saved:
        source.save_pretrained(saved, safe_serialization=True)
        if tokenizer is not None:
            tokenizer.save_pretrained(saved)
        _core.convert(saved, os.fspath(out), quant, calibrate, status)
