"""Replicas that die: no answer is lost, none is different. Skipped without Ray.

    pip install "ray[serve,data]"
    ROUNDS=20 ROWS=400 pytest crates/python/tests/test_ray.py -s
"""

import http.client
import json
import os
import random
import re
import signal
import threading
import time
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")
pytest.importorskip("ray.serve")

import nanoinfer  # noqa: E402
from nanoinfer.ray import Generate, application, blocks  # noqa: E402

MODEL = os.environ.get("NANOINFER_TEST_MODEL", "smollm2")
ROUNDS, ROWS, STREAMS, TOKENS = int(os.environ.get("ROUNDS", 2)), int(os.environ.get("ROWS", 40)), 16, 96


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def alone():
    """The same engine, in this process."""
    with nanoinfer.Model.open(MODEL, threads=1, ctx=512, kv_mb=64) as model:
        yield model


def processes(title):
    """The processes with this title, such as those of a deployment's replicas."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if re.search(title, path.read_text(errors="replace")):
                found.append(int(path.parent.name))
        except OSError:
            pass  # it has ended
    return found


def kill_one(title):
    os.kill(random.choice(processes(title)), signal.SIGKILL)


class Client(threading.Thread):
    """Streams one answer."""

    def __init__(self, index, round):
        super().__init__(daemon=True)
        self.body = {"model": "default", "prompt": f"Story {round}, number {index}: once upon a time", "stream": True}
        self.body |= {"max_tokens": TOKENS, "ignore_eos": True, "temperature": 0.9, "seed": index}
        self.text, self.times, self.status = "", [], 0

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", 8000, timeout=300)
        connection.request("POST", "/v1/completions", json.dumps(self.body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        self.status = response.status
        for line in response:
            if line.startswith(b"data: {"):
                self.times.append(time.monotonic())
                self.text += json.loads(line[6:])["choices"][0]["text"] if b'"text"' in line else ""

    def gap(self):
        """The longest time without a sign, in seconds."""
        return max(b - a for a, b in zip(self.times, self.times[1:]))


def test_streams_go_on_when_a_replica_dies(cluster, alone):
    from ray import serve

    options = {"threads": 1, "ctx": 512, "kv_mb": 64}
    serve.run(application(MODEL, num_replicas=2, num_cpus=0.5, **options))
    states = lambda: serve.status().applications["default"].deployments["nanoinfer"].replica_states
    running = lambda: states().get("RUNNING", 0)
    lost = different = 0
    for round in range(ROUNDS):
        clients = [Client(i, round) for i in range(STREAMS)]
        for client in clients:
            client.start()
        while any(len(client.times) < 5 for client in clients):
            assert all(client.is_alive() for client in clients), [client.status for client in clients]
            time.sleep(0.01)
        kill_one("ray::ServeReplica:.*nanoinfer")
        for client in clients:
            client.join()
        asked = [{k: v for k, v in c.body.items() if k not in ("model", "prompt", "stream")} for c in clients]
        expected = [alone.generate(c.body["prompt"], **fields).text for c, fields in zip(clients, asked)]
        lost += sum(client.status != 200 or len(client.text) < len(text) for client, text in zip(clients, expected))
        different += sum(client.text != text for client, text in zip(clients, expected))
        print(f"round {round}: longest gap {max(c.gap() for c in clients):.2f} s, lost {lost}, different {different}")
        # A replica has a process before it is ready; without the wait, the next round may kill the only other one.
        while len(processes("ray::ServeReplica:.*nanoinfer")) < 2 or running() < 2:
            time.sleep(0.1)
    serve.shutdown()
    assert (lost, different) == (0, 0)


def test_rows_are_the_same_when_an_actor_dies(cluster, alone):
    import ray.data

    rows = [{"id": i, "text": f"The number {i} is"} for i in range(ROWS)]
    generate = {"model": MODEL, "prompt": "text", "seed": "id", "max_tokens": 8}
    dataset = ray.data.from_items(rows, override_num_blocks=ROWS // 8).map_batches(
        Generate,
        fn_constructor_kwargs=generate | {"open": {"threads": 1, "ctx": 256, "kv_mb": 64}},
        concurrency=2,
        num_cpus=0.5,
        batch_size=8,
    )
    found = {}
    for row in dataset.iter_rows():
        assert row["id"] not in found
        found[row["id"]] = row["answer"]
        if len(found) == ROWS // 4:
            kill_one("ray::.*MapBatches.Generate")
    expected = {row["id"]: alone.generate(row["text"], seed=row["id"], max_tokens=8).text for row in rows}
    assert found == expected


def test_requests_that_begin_alike_have_the_same_blocks():
    turns = [{"role": "user", "content": "x" * 600}]
    longer = [*turns, {"role": "assistant", "content": "y" * 600}]
    first, second = blocks({"messages": turns}), blocks({"messages": longer})
    assert len(first) == 2 and second[:2] == first and len(second) == 5
    assert blocks({"messages": [{"role": "user", "content": "z" * 600}]})[0] not in second
    assert blocks({"prompt": "short"}) == []
