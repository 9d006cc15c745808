"""Schemathesis: requests made from the server's own description, valid and invalid.

No response may be a server error, have an undocumented status or type, or differ from its schema. EXAMPLES sets the
number of examples for each operation (default 300).
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import URL, case, main
from server import call

# With two workers, Python 3.11 fails at times to parse what Hypothesis prints.
WORKERS = "1"
CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx"]
"""
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@case
def responses_are_as_described():
    description = os.environ.get("OPENAPI", URL + "/openapi.json")
    if description.startswith("http"):
        status, _, found = call(description)
        assert status == 200 and found["openapi"].startswith("3."), status
    command = ["-m", "schemathesis.cli", "run", description, "--url", URL, "--checks", CHECKS, "--workers", WORKERS]
    command += ["--max-examples", os.environ.get("EXAMPLES", "300"), "--seed", "1", "--phases", "examples,coverage,fuzzing"]
    command += ["--exclude-path", "/v1/telemetry", "--request-timeout", "60", "--suppress-health-check", "all"]
    with tempfile.TemporaryDirectory() as work:  # it keeps what it finds where it runs
        (Path(work) / "schemathesis.toml").write_text(CONFIG)
        assert subprocess.run([sys.executable, *command], cwd=work).returncode == 0


if __name__ == "__main__":
    main()
