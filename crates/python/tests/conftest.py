"""One model for all tests: SmolLM2, which the tests of the repository keep in the cache folder."""

import pytest

import nanoinfer

OPTIONS = {"ctx": 1024, "sequences": 16, "kv_mb": 512}


@pytest.fixture(scope="session")
def model():
    with nanoinfer.Model.open("smollm2", **OPTIONS) as model:
        yield model
