"""Renders chat templates with Jinja2 as transformers sets it up, for crates/text/tests/jinja2.rs.

    pip install transformers==5.24 jinja2==3.1.6
    python3 tools/make_template_goldens.py

Reads expressions.txt, and the templates and conversations in the folders beside it; writes JSON files with
what each gives. Where Jinja2 raises, the golden is null.
"""

import json
from datetime import datetime
from pathlib import Path

from transformers.utils import chat_template_utils as hf

DATA = Path(__file__).parent.parent / "crates/text/tests/data"
NOW = 1_709_210_096  # a Thursday, 29 February 2024, 12:34:56 UTC


class Clock(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 2, 29, 12, 34, 56)


hf.datetime = Clock
BOS, EOS = "<s>", "</s>"


def render(source, request):
    """What transformers renders for a request in the format of chat APIs, or None if it raises."""
    try:
        template = hf._cached_compile_jinja_template(source)
        return template.render(
            messages=request["messages"],
            tools=request.get("tools"),
            documents=request.get("documents"),
            add_generation_prompt=request.get("add_generation_prompt", False),
            bos_token=BOS,
            eos_token=EOS,
            **request.get("chat_template_kwargs", {}),
        )
    except Exception:
        return None


def source(line):
    """A line of expressions.txt as a template."""
    is_template = any(mark in line for mark in ("{{ ", "{{-", "{% ", "{%-", "{%+", "{# "))
    return line.replace("⏎", "\n") if is_template else "{{ " + line + " }}"


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def expressions(lines, request):
    lines = [line for line in lines if line and not line.startswith("# ")]
    return {line: render(source(line), request) for line in lines}


def main():
    folder = DATA / "jinja2"
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    lines = (folder / "expressions.txt").read_text(encoding="utf-8").splitlines()
    write(folder / "expressions.json", expressions(lines, request))

    for folder in (DATA / "templates", DATA / "tools"):
        paths = sorted((folder / "conversations").glob("*.json"))
        requests = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}
        for path in sorted(folder.glob("*.jinja")):
            template = path.read_text(encoding="utf-8")
            rendered = {name: render(template, request) for name, request in requests.items()}
            write(path.with_suffix(".json"), rendered)


if __name__ == "__main__":
    main()
