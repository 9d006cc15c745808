"""What happens besides answers: interruptions, errors, ends, asyncio, servers, conversion."""

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import threading
import urllib.error
import urllib.request

import pytest

import nanoinfer
from conftest import OPTIONS

ENDLESS = {"max_tokens": -1, "ignore_eos": True}


def run(code, **more):
    """Runs a program, which must end well."""
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, **more)


def test_an_interruption_leaves_a_usable_model():
    done = run(
        """
        import os, signal, threading, time
        import nanoinfer

        # Who starts this in the background may have it ignore the signal.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        model = nanoinfer.Model.open("smollm2", ctx=8192, kv_mb=512)
        want = model.generate("One, two,", max_tokens=5).tokens
        for ask in (lambda: model.generate("a", max_tokens=-1, ignore_eos=True),
                    lambda: [None for _ in model.stream("a", max_tokens=-1, ignore_eos=True)],
                    lambda: model.logits(list(range(4000)))):
            started = threading.Event()
            timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
            timer.start()
            try:
                ask()
            except KeyboardInterrupt:
                print("interrupted")
            timer.join()
            assert model.generate("One, two,", max_tokens=5).tokens == want
        """
    )
    assert (done.stdout, done.returncode) == ("interrupted\n" * 3, 0), done.stderr


def test_errors_are_sentences(model):
    for ask, error, text in [
        (lambda: model.generate("a", temperature=-1), nanoinfer.RequestError, "temperature: expected a number from 0"),
        (lambda: model.generate("a", colour="red"), TypeError, "unknown option 'colour'"),
        (lambda: model.generate([10**9]), nanoinfer.RequestError, "prompt: token 1000000000"),
        (lambda: model.generate([1] * 2000), nanoinfer.RequestError, "1024 tokens"),
        (lambda: model.generate(""), nanoinfer.RequestError, "empty"),
        (lambda: model.chat([{"content": "a"}]), nanoinfer.RequestError, "messages"),
        (lambda: model.embed([]), nanoinfer.RequestError, "input"),
        (lambda: model.logits([]), nanoinfer.RequestError, "empty"),
        (lambda: nanoinfer.Model.open("missing.nano"), nanoinfer.NanoInferError, 'model "missing.nano": no such file'),
        (lambda: nanoinfer.Model("smollm2"), TypeError, "use Model.open('smollm2')"),
        (lambda: nanoinfer.Model.open("smollm2", threads=0), nanoinfer.RequestError, "threads: expected"),
        (lambda: nanoinfer.Model.open("smollm2", quant="q9"), nanoinfer.RequestError, "quant: "),
        (lambda: model.serve("0.0.0.0", 0), nanoinfer.NanoInferError, "requires keys"),
        (lambda: nanoinfer.convert(7, "x.nano"), TypeError, "expected a path"),
    ]:
        with pytest.raises(error) as raised:
            ask()
        assert text in str(raised.value) and "\n" not in str(raised.value)


def test_a_closed_model_ends_its_answers():
    model = nanoinfer.Model.open("smollm2", **OPTIONS)
    stream = model.stream("a", **ENDLESS)
    next(stream)
    model.close()
    model.close()
    for ask in (lambda: list(stream), lambda: model.generate("a"), lambda: model.logits([1])):
        with pytest.raises(nanoinfer.NanoInferError, match="closed"):
            ask()
    assert model.closed


def test_streams_that_are_left_are_cancelled(model):
    for i in range(40):  # more than run at once: others would wait for ever
        stream = model.stream(f"{i}", **ENDLESS)
        next(stream)
        if i % 2:
            stream.close()
            assert list(stream.answer.tokens)
        del stream
    assert len(model.generate("a", max_tokens=3, ignore_eos=True).tokens) == 3


def test_a_stream_can_be_closed_by_another_thread(model):
    stream = model.stream("a", **ENDLESS)
    timer = threading.Timer(0.1, stream.close)
    timer.start()
    with pytest.raises(nanoinfer.NanoInferError, match="closed"):
        list(stream)
    timer.join()


def test_opening_and_closing_leaks_nothing():
    done = run(
        """
        import os
        import nanoinfer

        def used():
            pages = int(open("/proc/self/statm").read().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

        def cycle(n):
            for _ in range(n):
                with nanoinfer.Model.open("smollm2", ctx=256, sequences=2, kv_mb=16) as model:
                    model.generate("a", max_tokens=1)
            return used()

        rss, fds, threads = cycle(10)
        after = cycle(40)
        assert after[1:] == (fds, threads), (after, fds, threads)
        assert after[0] < rss + (8 << 20), (after, rss)
        """
    )
    assert done.returncode == 0, done.stderr


def test_asyncio(model):
    alone = [model.generate(f"{i} is", max_tokens=20, seed=i).tokens for i in range(24)]

    async def main():
        tasks = [model.generate_async(f"{i} is", max_tokens=20, seed=i) for i in range(24)]
        together = [answer.tokens for answer in await asyncio.gather(*tasks)]
        stream = await model.stream_async("0 is", max_tokens=20, seed=0)
        chunks = [chunk async for chunk in stream]
        chat = await model.chat_async("Hi", max_tokens=5)
        rows = await model.logits_async([1, 2])
        vectors = await model.embed_async(["one", "two"])
        endless = asyncio.ensure_future(model.generate_async("a", **ENDLESS))
        await asyncio.sleep(0.05)
        endless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless
        async with await model.stream_async("a", **ENDLESS) as left:
            await left.__anext__()
        return together, [id for chunk in chunks for id in chunk.tokens], chat, rows, vectors

    for _ in range(2):  # each in an event loop of its own
        together, streamed, chat, rows, vectors = asyncio.run(main())
        assert together == alone and streamed == alone[0]
        assert chat.tokens == model.chat("Hi", max_tokens=5).tokens
        assert (rows == model.logits([1, 2])).all() and (vectors == model.embed(["one", "two"])).all()


BODY = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "seed": 0}


def test_a_server_in_this_process(model):
    with model.serve(port=0) as server:
        request = urllib.request.Request(server.url + "/v1/chat/completions", json.dumps(BODY).encode())
        request.add_header("content-type", "application/json")
        reply = json.load(urllib.request.urlopen(request))
        url = server.url
    assert reply["choices"][0]["message"]["content"] == model.chat("Hi", max_tokens=8).text
    assert reply["system_fingerprint"] == model.fingerprint
    assert server.address is None
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url + "/health")


def test_asgi(model):
    async def ask(body, leave_after=None):
        sent, gone = [], asyncio.Event()
        asked = [{"type": "http.request", "body": json.dumps(body).encode()}]

        async def receive():
            if asked:
                return asked.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)
            if len(sent) == leave_after:
                gone.set()

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": headers}
        await model.asgi(scope, receive, send)
        return sent

    whole = asyncio.run(ask(BODY))
    assert whole[0]["status"] == 200
    reply = json.loads(b"".join(part["body"] for part in whole[1:] if "body" in part))
    assert reply["choices"][0]["message"]["content"] == model.chat("Hi", max_tokens=8).text
    endless = {**BODY, "max_tokens": -1, "ignore_eos": True, "stream": True}
    left = asyncio.run(ask(endless, leave_after=4))
    assert b"\ndata: " in left[1]["body"] and left[-1].get("more_body")


def test_a_model_of_transformers_is_saved_and_converted(tmp_path):
    class Fake:
        """Saves what a model of transformers would."""

        def save_pretrained(self, folder, **_):
            source = os.path.join(os.path.dirname(__file__), "../../../tests/data/tiny/llama-gqa")
            for name in "config.json", "model.safetensors":
                with open(os.path.join(source, name), "rb") as file:
                    open(os.path.join(folder, name), "wb").write(file.read())

    said = []
    nanoinfer.convert(Fake(), tmp_path / "tiny.nano", quant="f32", status=lambda *what: said.append(what))
    assert os.listdir(tmp_path) == ["tiny.nano"] and said
    with nanoinfer.Model.open(tmp_path / "tiny.nano", offline=True) as tiny:
        assert tiny.quant == "f32" and tiny.logits([1, 2]).shape == (2, tiny.vocab_size)
        with pytest.raises(nanoinfer.NanoInferError, match="tokenizer"):
            tiny.tokenize("a")


def test_the_command_has_its_exit_codes():
    for args, code in [(["--version"], 0), (["nonsense"], 2), (["inspect", "missing.nano"], 1)]:
        done = subprocess.run([sys.executable, "-m", "nanoinfer", *args], capture_output=True, text=True)
        assert done.returncode == code, (args, done)
    assert nanoinfer.__version__ in run("import nanoinfer; print(nanoinfer.__version__)").stdout


def test_importing_is_quick_and_numpy_comes_later():
    done = run("import nanoinfer, sys; print('numpy' in sys.modules)")
    assert done.stdout == "False\n", done.stderr
