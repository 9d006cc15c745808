"""Coding agents (codex, opencode) complete a small task: to write a file with a command.

The answers that they need are scripted, since the small models of tests solve no tasks. Between the agent and the
server is a relay: it sends each of the agent's requests to the server, checks the events that come back, and gives
the agent the scripted answer instead. Then the agents run once more with the server's own answers.

Needs the programs: CODEX=path, OPENCODE=path, or in PATH. Those that are missing are skipped.
"""

import json
import os
import shutil
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness import MODEL, URL, case, main
from server import call, events

COMMAND = "echo hello > hello.txt"
TASK = "Write the word hello into the file hello.txt."
USAGE = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}


def program(name):
    return os.environ.get(name.upper()) or shutil.which(name)


class Relay(ThreadingHTTPServer):
    """Stands between an agent and the server. With `scripted`, the agent gets scripted answers."""

    def __init__(self, scripted):
        self.scripted, self.seen, self.problems = scripted, [], []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def answer(self, path, body):
        """The lines of an event stream."""
        asked = accepted(path, body, self.seen)
        stream = events(URL + path, asked)
        (check_response if path.endswith("/responses") else check_chat)(stream)
        script = response if path.endswith("/responses") else chat
        return script(body) if self.scripted else stream


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.reply(json.dumps(call(URL + self.path)[2]), "application/json")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            stream = self.server.answer(self.path, body)
        except Exception as error:
            self.server.problems.append(f"{self.path}: {error!r}")
            return self.reply(json.dumps({"error": {"message": repr(error)}}), "application/json", 400)
        named = self.path.endswith("/responses")
        lines = [(f"event: {e['type']}\n" if named else "") + f"data: {json.dumps(e)}\n\n" for e in stream]
        self.reply("".join(lines) + ("" if named else "data: [DONE]\n\n"), "text/event-stream")

    def reply(self, text, kind, status=200):
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def accepted(path, body, seen):
    """A request that the server accepts, with a short answer."""
    # An answer that ends at a stop string is whole; one that is cut off is an error for codex.
    asked = body | {"stop": [" ", ".", "\n"]}
    status, _, answer = call(URL + path, asked | {"stream": False})
    assert status == 200, answer
    usage = answer["usage"]
    cached = (usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))["cached_tokens"]
    seen.append((path, usage.get("prompt_tokens") or usage.get("input_tokens"), cached, len(body.get("tools") or [])))
    return asked


def check_response(stream):
    kinds = [e["type"] for e in stream]
    assert kinds[:2] == ["response.created", "response.in_progress"], kinds
    assert kinds[-1] in ("response.completed", "response.incomplete"), kinds
    assert [e["sequence_number"] for e in stream] == list(range(len(stream)))
    assert stream[-1]["response"]["usage"]["total_tokens"] > 0


def check_chat(stream):
    reasons = [e["choices"][0]["finish_reason"] for e in stream if e["choices"]]
    assert reasons[-1] in ("stop", "length", "tool_calls") and set(reasons[:-1]) <= {None}, reasons
    assert stream[-1]["choices"] == [] and stream[-1]["usage"]["total_tokens"] > 0


def response(body):
    """The scripted answer to a request of `/v1/responses`: a call, then a text."""
    done = any(item.get("type") == "function_call_output" for item in body["input"])
    if done:
        part = {"type": "output_text", "text": "Done.", "annotations": []}
        item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    else:
        known = {"exec_command": {"cmd": COMMAND}, "shell_command": {"command": COMMAND}, "shell": {"command": ["bash", "-c", COMMAND]}}
        name = next(t["name"] for t in body["tools"] if t.get("name") in known)
        item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": name, "status": "completed"}
        item["arguments"] = json.dumps(known[name])
    whole = {"id": "resp_1", "object": "response", "created_at": 1, "model": MODEL, "status": "in_progress", "output": [], "usage": None}
    end = whole | {"status": "completed", "output": [item], "usage": USAGE}
    stream = [
        {"type": "response.created", "response": whole},
        {"type": "response.output_item.added", "output_index": 0, "item": item | {"status": "in_progress"}},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": end},
    ]
    return [event | {"sequence_number": i} for i, event in enumerate(stream)]


def chat(body):
    """The scripted answer to a request of `/v1/chat/completions`: a call if there are tools, then a text."""
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    if body.get("tools") and not any(m["role"] == "tool" for m in body["messages"]):
        arguments = json.dumps({"command": COMMAND, "description": "Writes a word to a file"})
        function = {"name": "bash", "arguments": arguments}
        delta, reason = {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}, "tool_calls"
    else:
        delta, reason = {"content": "Done."}, "stop"
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return [
        base | {"choices": [{"index": 0, "delta": {"role": "assistant"} | delta, "finish_reason": None}]},
        base | {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
        base | {"choices": [], "usage": usage},
    ]


def codex(url, home):
    (home / ".codex").mkdir()
    (home / ".codex/config.toml").write_text(
        f'model = "{MODEL}"\nmodel_provider = "local"\nmodel_context_window = 32768\n'
        f'[model_providers.local]\nname = "local"\nbase_url = "{url}"\nwire_api = "responses"\n'
        "request_max_retries = 0\nstream_max_retries = 0\n"
    )
    return [program("codex"), "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", TASK]


def opencode(url, home):
    (home / ".config/opencode").mkdir(parents=True)
    model = {"name": MODEL, "limit": {"context": 32768, "output": 4096}}
    options = {"npm": "@ai-sdk/openai-compatible", "name": "local", "options": {"baseURL": url, "apiKey": "none"}}
    config = {
        "autoupdate": False,
        "share": "disabled",
        "model": f"local/{MODEL}",
        "provider": {"local": options | {"models": {MODEL: model}}},
        "permission": {"bash": "allow", "edit": "allow"},
    }
    (home / ".config/opencode/opencode.json").write_text(json.dumps(config))
    return [program("opencode"), "run", TASK]


def run(agent, scripted):
    """Runs an agent in an empty folder with a home of its own. Returns what it wrote to the file, if anything."""
    if not program(agent.__name__):
        print(f"  {agent.__name__}: not installed")
        return None
    relay = Relay(scripted)
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as work:
        command = agent(relay.url, Path(home))
        env = {"HOME": home, "PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1"}
        env |= {"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1"}
        done = subprocess.run(
            command, cwd=work, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1800
        )
        found = Path(work, "hello.txt")
        found = found.read_text() if found.exists() else ""
    relay.shutdown()
    for path, prompt, cached, tools in relay.seen:
        print(f"  {agent.__name__}: {path}: {prompt} tokens, {cached} cached; {tools} tools", flush=True)
    assert not relay.problems, relay.problems
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert any(tools for *_, tools in relay.seen), done.stdout[-2000:] + done.stderr[-2000:]
    if scripted:
        assert found == "hello\n", done.stdout[-2000:] + done.stderr[-2000:]
        assert "Done." in done.stdout


@case
def codex_completes_its_task():
    run(codex, True)


@case
def opencode_completes_its_task():
    run(opencode, True)


@case
def codex_reads_the_own_answers():
    run(codex, False)


@case
def opencode_reads_the_own_answers():
    run(opencode, False)


if __name__ == "__main__":
    main()
