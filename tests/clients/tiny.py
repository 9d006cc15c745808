"""Makes a tiny model with random weights that has a tokenizer, a chat template and tokens to fill gaps.

Its tokens are bytes. Answers make no sense, but come at once: for tests in which only the protocol matters.
"""

import json
import shutil
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "data/tiny/llama-gqa"
CONTROL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Reasoning and calls as in Qwen 3, in few bytes.
TOOLS = (Path(__file__).parents[2] / "crates/serve/tests/data/tools.jinja").read_text()
# Tokens with a text, from this id on.
FIRST_MARKER = 264
MARKERS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]


def make(folder, ctx=512, template=TEMPLATE, markers=(), eos="</s>"):
    """Writes the model to a folder that exists. `markers` are further tokens; at most 56 fit."""
    folder = Path(folder)
    shutil.copy(SOURCE / "model.safetensors", folder)
    config = json.loads((SOURCE / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": ctx}))
    # Bytes without a visible character are written as the characters from 256 on.
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = iter(range(256, 512))
    vocab = {chr(byte if byte in visible else next(shifted)): byte for byte in range(256)}
    added = [{"id": 256 + i, "content": name, "special": True} for i, name in enumerate(CONTROL)]
    added += [{"id": FIRST_MARKER + i, "content": name, "special": False} for i, name in enumerate(markers)]
    ids = {token["content"]: token["id"] for token in added}
    files = {
        "tokenizer.json": {
            "added_tokens": added,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        },
        "tokenizer_config.json": {"add_bos_token": True, "chat_template": template},
        "generation_config.json": {"bos_token_id": 256, "eos_token_id": ids[eos]},
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    return folder


def make_with_tools(folder, ctx=8192):
    """The same with reasoning and tools."""
    return make(folder, ctx, TOOLS, MARKERS, "<|im_end|>")
