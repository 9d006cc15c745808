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


def make(folder):
    """Writes the model to a folder that exists."""
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(SOURCE / name, folder / name)
    # Bytes without a visible character are written as the characters from 256 on.
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = iter(range(256, 512))
    vocab = {chr(byte if byte in visible else next(shifted)): byte for byte in range(256)}
    files = {
        "tokenizer.json": {
            "added_tokens": [{"id": 256 + i, "content": name, "special": True} for i, name in enumerate(CONTROL)],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
            "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        },
        "tokenizer_config.json": {"add_bos_token": True, "chat_template": TEMPLATE},
        "generation_config.json": {"bos_token_id": 256, "eos_token_id": 257},
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    return folder
