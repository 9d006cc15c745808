"""The recipes of docs/CLIENTS.md, run as they stand."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import URL, case, main

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "CLIENTS.md").read_text()


def run(language, code):
    """The output of a recipe, whose server is that of the test."""
    code = code.replace("http://127.0.0.1:8080", URL)
    with tempfile.TemporaryDirectory() as home:
        tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = os.environ | {"PATH": tools, "HOME": home, "LLM_USER_PATH": home}
        command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euc", code]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@case
def every_recipe_answers():
    found = re.findall(r"^\*\*(.+?)\*\*.*?^```(python|sh)\n(.*?)^```", TEXT, re.M | re.S)
    assert len(found) == 5
    for name, language, code in found:
        output = run(language, code)
        print(f"{name}: {output.strip()}")
        assert "Paris" in output, name


if __name__ == "__main__":
    main()
