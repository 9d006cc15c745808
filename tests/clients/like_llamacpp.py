"""What llama.cpp's tests of its server check (tools/server/tests/unit), for the APIs that this server has too.

Translated by meaning: lengths, routes and model differ. The names of the original tests are in the comments. Needs
no package.
"""

import base64
import json
import os
import socket
import struct
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from harness import KEY, MODEL, URL, case, figure, main, wait_until_idle
from server import Server, call, events

import tiny

LIFE = "I believe the meaning of life is"
BOOK = [{"role": "system", "content": "Book"}, {"role": "user", "content": "What is the best book"}]


def post(path, body, url=URL, headers=None):
    return call(url + path, {"model": MODEL} | body if isinstance(body, dict) else body, headers)


def good(path, body, url=URL, headers=None):
    status, _, answer = post(path, body, url, headers)
    assert status == 200, answer
    return answer


def completion(prompt=LIFE, url=URL, **fields):
    return good("/v1/completions", {"prompt": prompt, "max_tokens": 8} | fields, url)


def chat(messages=BOOK, **fields):
    return good("/v1/chat/completions", {"messages": messages, "max_tokens": 8} | fields)


def message(**fields):
    return good("/v1/messages", {"messages": [{"role": "user", "content": "Say hello"}], "max_tokens": 20} | fields)


# test_basic: server_start_simple, server_models
@case
def the_server_is_healthy_and_lists_its_model():
    assert call(URL + "/health")[0] == 200
    status, _, listed = call(URL + "/v1/models")
    assert status == 200 and [m["id"] for m in listed["data"]] == [MODEL]


# test_completion: completion, completion_stream, completion_stream_vs_non_stream
@case
def completions_and_their_streams():
    for prompt, n in [(LIFE, 8), ("Write a joke about AI from a very long prompt which will not be truncated", 64)]:
        fields = {"prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": True}
        whole = completion(**fields)
        assert whole["usage"]["completion_tokens"] == n and whole["choices"][0]["finish_reason"] == "length"
        stream = events(URL + "/v1/completions", fields | {"model": MODEL})
        assert "".join(e["choices"][0]["text"] for e in stream) == whole["choices"][0]["text"]


# test_completion: completion_stream_with_openai_library_stops
@case
def stop_strings_are_not_shown():
    prompt = "System: You are a helpful assistant.\nUser:\nTell me a joke.\nAssistant:\n"
    fields = {"prompt": prompt, "stop": ["User:\n", "Assistant:\n"], "max_tokens": 60, "temperature": 0}
    text = "".join(e["choices"][0]["text"] for e in events(URL + "/v1/completions", fields | {"model": MODEL}))
    assert "User:\n" not in text and "Assistant:\n" not in text
    assert text == completion(**fields)["choices"][0]["text"]


# test_completion: consistent_result_same_seed, different_result_different_seed,
# consistent_result_different_batch_size, cache_vs_nocache_prompt
@case
def seeds_decide_the_text_and_nothing_else_does():
    def text(**fields):
        return completion(**fields)["choices"][0]["text"]

    assert len({text(seed=42, temperature=0) for _ in range(4)}) == 1
    assert len({text(seed=seed, temperature=1, max_tokens=16) for seed in range(4)}) == 4
    long = " ".join(["The fox jumps over the dog."] * 30)
    first, again = (completion(prompt=long, seed=1, temperature=1) for _ in range(2))
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert first["choices"][0]["text"] == again["choices"][0]["text"]


# test_completion: completion_with_tokens_input
@case
def prompts_are_texts_and_tokens():
    ids = good("/tokenize", {"content": LIFE, "add_special": True})["tokens"]
    alone = completion(prompt=ids, temperature=0)["choices"][0]["text"]
    for prompt in [[ids, ids], [ids, LIFE]]:
        both = completion(prompt=prompt, temperature=0)["choices"]
        assert [c["text"] for c in both] == [alone, alone]


# test_completion: completion_parallel_slots
@case
def parallel_requests_are_all_answered():
    prompts = ["Write a long book.", "Write a poem.", "What is LLM?", "The sky is blue.", "Write a song.", "Tell a joke."]
    alone = [completion(prompt=p, seed=42, temperature=1)["choices"][0]["text"] for p in prompts]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda p: completion(prompt=p, seed=42, temperature=1)["choices"][0]["text"], prompts))
    assert together == alone


# test_completion: n_probs, n_probs_stream
@case
def probabilities_of_completions():
    found = completion(logprobs=10, temperature=0, max_tokens=5)["choices"][0]["logprobs"]
    assert len(found["tokens"]) == len(found["token_logprobs"]) == len(found["top_logprobs"]) == 5
    assert all(p <= 0 for p in found["token_logprobs"]) and all(len(top) == 10 for top in found["top_logprobs"])
    fields = {"model": MODEL, "prompt": LIFE, "logprobs": 10, "temperature": 0, "max_tokens": 5}
    stream = [e["choices"][0]["logprobs"] for e in events(URL + "/v1/completions", fields)]
    assert [t for part in stream if part for t in part["tokens"]] == found["tokens"]


# test_completion: logit_bias
@case
def biases_exclude_words():
    words = ["i", "I", "the", "The", "to", "a", "an", "be", "is", "was", "and", "you", "he", "she", "we", "it", "book"]
    ids = good("/tokenize", {"content": " " + " ".join(words) + " "})["tokens"]
    bias = {str(i): -100 for i in ids}
    answer = completion(prompt="What is the best book", logit_bias=bias, max_tokens=64, temperature=0)
    assert not any(f" {word} " in answer["choices"][0]["text"] for word in words)


# test_completion: cancel_request; test_metrics: metrics_slots_idle_after_completion
@case
def a_client_that_goes_away_frees_its_place():
    fields = b'{"prompt": "I believe", "max_tokens": 4000, "ignore_eos": true}'
    host, port = URL.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as peer:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(fields)}\r\n\r\n"
        peer.sendall(head.encode() + fields)
        while figure("nanoinfer_running") == 0:
            time.sleep(0.01)
    wait_until_idle(2)


# test_completion: completion_prompt_cache
@case
def prompts_alternate_in_the_cache():
    for i in range(16):
        r = i * 7 % 5
        answer = completion(prompt=f" Hello {r}" * (40 + r), max_tokens=1 + i % 8, ignore_eos=True)
        assert answer["choices"][0]["text"] and answer["usage"]["completion_tokens"] == 1 + i % 8


# test_ignore_eos: ignore_eos_populates_logit_bias (the effect)
@case
def answers_go_on_after_their_end():
    turns = [{"role": "user", "content": "Say yes."}]
    assert chat(turns, max_tokens=300, temperature=0, ignore_eos=True)["usage"]["completion_tokens"] == 300
    assert chat(turns, max_tokens=300, temperature=0)["usage"]["completion_tokens"] < 300


# test_chat_completion: chat_completion
@case
def chats_of_texts_and_parts():
    for content, n in [("Hey", 8), ("What is the best book", 8), ([{"type": "text", "text": "What is"}, {"type": "text", "text": "the best book"}], 8)]:
        answer = chat([{"role": "system", "content": "Book"}, {"role": "user", "content": content}], max_tokens=n)
        choice = answer["choices"][0]
        assert choice["message"]["role"] == "assistant" and choice["message"]["content"]
        assert answer["usage"]["completion_tokens"] == n and choice["finish_reason"] == "length"
        assert answer["system_fingerprint"] and answer["id"]


# test_chat_completion: chat_completion_cached_tokens
@case
def cached_tokens_are_counted():
    system = " ".join(f"Fact {i}." for i in range(60))
    counts = []
    for text in ["1 2 3 4 5 6", "1 2 3 4 5 6", "1 2 3 4 5 9"]:
        turns = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        usage = chat(turns)["usage"]
        counts.append(usage["prompt_tokens_details"]["cached_tokens"])
        total = usage["prompt_tokens"]
    # Whole blocks of 64 tokens; at least one token is computed.
    assert counts[0] == 0 and counts[1] >= (total - 1) // 64 * 64 and counts[2] > 0, (counts, total)


# test_chat_completion: chat_completion_stream
@case
def chat_streams_have_a_role_and_an_end():
    for n in (8, 100):
        fields = {"model": MODEL, "messages": BOOK, "max_tokens": n, "ignore_eos": True, "stream_options": {"include_usage": True}}
        stream = events(URL + "/v1/chat/completions", fields)
        assert len({e["id"] for e in stream}) == 1 and all(e["system_fingerprint"] for e in stream)
        deltas = [e["choices"][0] for e in stream if e["choices"]]
        assert deltas[0]["delta"]["role"] == "assistant" and all("role" not in d["delta"] for d in deltas[1:])
        assert [d["finish_reason"] for d in deltas] == [None] * (len(deltas) - 1) + ["length"]
        assert not deltas[-1]["delta"].get("content")
        assert stream[-1]["usage"]["completion_tokens"] == n


# test_chat_completion: apply_chat_template, test_tokenize: tokenize_with_bos (in part)
@case
def the_template_is_applied():
    prompt = good("/apply-template", {"messages": BOOK})["prompt"]
    assert prompt.index("Book") < prompt.index("What is the best book")
    assert chat()["usage"]["prompt_tokens"] == len(good("/tokenize", {"content": prompt, "parse_special": True})["tokens"])


# test_chat_completion: invalid_chat_completion_req, completion_with_response_format (invalid ones),
# chat_template_continue_final_message_mutual_exclusion, completion_with_invalid_grammar
@case
def invalid_chats_are_refused():
    for messages in [None, "string", [123], [{}], [{"role": 123}], [{"role": "system", "content": 123}], [*BOOK[:1], {}]]:
        status, _, answer = post("/v1/chat/completions", {"messages": messages})
        assert status == 400 and answer["error"]["message"], (messages, answer)
    for fields in [
        {"response_format": {"type": "sound"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": 123}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 123}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "hiccup"}}}},
        {"add_generation_prompt": True, "continue_final_message": True},
        {"grammar": "root ::= this is (not valid GBNF"},
    ]:
        status, _, answer = post("/v1/chat/completions", {"messages": BOOK, "max_tokens": 8} | fields)
        assert status == 400 and answer["error"]["message"], (fields, answer)


# test_chat_completion: completion_with_response_format, completion_with_json_schema, completion_with_grammar
@case
def answers_follow_schemas_and_grammars():
    for fields, text in [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": "foooooo"}}}}, '"foooooo"'),
        ({"response_format": {"type": "json_object", "schema": {"const": "bar"}}}, '"bar"'),
        ({"json_schema": {"const": "42"}}, '"42"'),
        ({"grammar": 'root ::= "a"{5,5}'}, "aaaaa"),
    ]:
        choice = chat(**fields | {"max_tokens": 12, "temperature": 0})["choices"][0]
        assert choice["message"]["content"] == text, (fields, choice)


# test_tool_call: completion_with_required_tool_tiny (in part), completion_without_tool_call
@case
def required_tools_are_called():
    schema = {"type": "object", "properties": {}, "required": ["success"], "additionalProperties": False}
    tools = [{"type": "function", "function": {"name": "test", "description": "", "parameters": schema}}]
    for argument in (True, False):
        schema["properties"]["success"] = {"const": argument}
        fields = {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 100}
        choice = chat(**fields)["choices"][0]
        (made,) = choice["message"]["tool_calls"]
        assert choice["finish_reason"] == "tool_calls" and not choice["message"].get("content"), choice
        assert made["function"]["name"] == "test" and json.loads(made["function"]["arguments"]) == {"success": argument}
    choice = chat(tools=tools, tool_choice="none", max_tokens=20)["choices"][0]
    assert choice["message"]["content"] and "tool_calls" not in choice["message"]


# test_chat_completion: logprobs, logprobs_stream
@case
def probabilities_of_chats():
    fields = {"logprobs": True, "top_logprobs": 10, "max_tokens": 5, "temperature": 0}
    choice = chat(**fields)["choices"][0]
    found = choice["logprobs"]["content"]
    assert "".join(t["token"] for t in found) == choice["message"]["content"]
    assert all(t["logprob"] <= 0 and t["bytes"] is not None and len(t["top_logprobs"]) == 10 for t in found)
    stream = [e["choices"][0] for e in events(URL + "/v1/chat/completions", {"model": MODEL, "messages": BOOK} | fields)]
    streamed = [t for c in stream if c["logprobs"] for t in c["logprobs"]["content"]]
    assert streamed == found


# test_chat_completion: context_size_exceeded, context_size_exceeded_stream;
# test_ctx_shift: ctx_shift_disabled_short_prompt, ctx_shift_disabled_long_prompt, ctx_shift_disabled_stream
@case
def a_full_context_ends_answers_and_refuses_prompts():
    options = ["--model", f"{MODEL}={os.environ['NANOINFER_MODEL']}", "--ctx", "256"]
    with Server(os.environ["NANOINFER_BINARY"], options) as small:
        for stream in (False, True):
            status, _, answer = post("/v1/chat/completions", {"messages": BOOK * 100, "stream": stream}, small.url)
            error = answer["error"]
            assert status == 400 and error["n_prompt_tokens"] > 256 and error["n_ctx"] == 256
        short = completion("Hi how are you", small.url, max_tokens=-1, ignore_eos=True)
        assert short["usage"]["total_tokens"] in (256, 257) and short["choices"][0]["finish_reason"] == "length"
        assert completion("Hi how are you", small.url, max_tokens=64, ignore_eos=True)["usage"]["completion_tokens"] == 64
        fields = {"model": MODEL, "prompt": "Once", "max_tokens": 400, "ignore_eos": True}
        stream = events(small.url + "/v1/completions", fields)
        assert stream[-1]["choices"][0]["finish_reason"] == "length"


# test_infill: infill_without_input_extra, invalid_input_extra_req
@case
def gaps_are_filled():
    with tempfile.TemporaryDirectory() as folder:
        with Server(os.environ["NANOINFER_BINARY"], ["--model", f"{MODEL}={tiny.make(folder)}"]) as server:
            fields = {"input_prefix": "int main() {\n", "input_suffix": "}\n", "n_predict": 8, "temperature": 0}
            whole = good("/infill", fields, server.url)
            assert whole["tokens_predicted"] == 8 and whole["stop_type"] == "limit"
            stream = events(server.url + "/infill", fields | {"model": MODEL})
            assert "".join(e["content"] for e in stream) == whole["content"] and stream[-1]["stop"]
            for extra in [{}, {"filename": "ok"}, {"filename": 123}, {"filename": 123, "text": "abc"}]:
                assert post("/infill", fields | {"input_extra": [extra]}, server.url)[0] == 400
            fields = {"prompt": "int main() {\n", "suffix": "}\n", "max_tokens": 8, "temperature": 0}
            assert completion(url=server.url, **fields)["choices"][0]["text"] == whole["content"]


# test_chat_completion: return_progress (as comments)
@case
def progress_is_reported():
    long = [{"role": "user", "content": "This is a test " * 400}]
    host, port = URL.removeprefix("http://").split(":")
    body = f'{{"messages": [{{"role": "user", "content": "{long[0]["content"]}"}}], "stream": true, "max_tokens": 2}}'
    with socket.create_connection((host, int(port))) as peer:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        peer.sendall((head + body).encode())
        text = b""
        while part := peer.recv(65536):
            text += part
    done = [tuple(map(int, line.split()[-1].split(b"/"))) for line in text.splitlines() if line.startswith(b": prefill ")]
    assert len(done) > 1 and done == sorted(done) and len({total for _, total in done}) == 1, done


# test_chat_completion: chat_completions_multiple_choices
@case
def several_choices():
    for _ in range(2):
        answer = chat(n=2)
        assert len(answer["choices"]) == 2
        assert all(c["finish_reason"] == "length" and c["message"]["role"] == "assistant" for c in answer["choices"])


# test_tokenize: all three
@case
def tokens_and_texts():
    text = "What is the capital of France ?"
    ids = good("/tokenize", {"content": text})["tokens"]
    assert len(ids) > 5 and good("/detokenize", {"tokens": ids})["content"] == text
    text = "This is a test string with unicode 媽 and emoji 🤗"
    pieces = good("/tokenize", {"content": text, "with_pieces": True})["tokens"]
    assert all(t["id"] >= 0 and t["piece"] for t in pieces)
    assert good("/detokenize", {"tokens": [t["id"] for t in pieces]})["content"] == text


def embed(value, **fields):
    return good("/v1/embeddings", {"input": value} | fields)


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b))


# test_embedding: embedding_single, embedding_multiple, openai_library_embedding, embedding_error_prompt_too_long,
# same_prompt_give_same_result, embedding_usage_single, embedding_usage_multiple, embedding_openai_library_base64,
# embedding_mixed_input
@case
def texts_have_vectors():
    one = embed(LIFE)
    vector = one["data"][0]["embedding"]
    assert len(vector) > 1 and abs(cosine(vector, vector) - 1) < 1e-3
    texts = [LIFE, "Write a joke about AI from a very long prompt which will not be truncated", "This is a test", LIFE]
    many = embed(texts)
    assert [d["index"] for d in many["data"]] == [0, 1, 2, 3]
    assert many["data"][0]["embedding"] == many["data"][3]["embedding"] == vector
    assert many["usage"]["prompt_tokens"] == many["usage"]["total_tokens"] > one["usage"]["prompt_tokens"]
    packed = base64.b64decode(embed(LIFE, encoding_format="base64")["data"][0]["embedding"])
    assert [f for (f,) in struct.iter_unpack("<f", packed)] == [f32(x) for x in vector]
    assert [d["embedding"] for d in embed([LIFE, [1, 2, 3]])["data"]][0] == vector
    status, _, answer = post("/v1/embeddings", {"input": "This is a test " * 8000})
    assert status == 400 and answer["error"]["n_prompt_tokens"] > answer["error"]["n_ctx"]
    for bad in [[], "", [1, "a"], None, 5, {"a": 1}]:
        assert post("/v1/embeddings", {"input": bad})[0] == 400, bad


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


# test_rerank: rerank, rerank_tei_format (documents), invalid_rerank_req, rerank_usage, rerank_top_n
@case
def documents_are_ranked():
    documents = ["A machine is a physical system.", "Learning is a process.", {"text": "Machine learning is a field of study."}]
    body = {"query": "Machine learning is", "documents": documents}
    status, _, ranked = post("/v1/rerank", body)
    if status == 400:  # the model has no tokens for the answers
        assert ranked["error"]["code"] == "model_not_supported" and "cannot rank" in ranked["error"]["message"]
        return
    scores = [r["relevance_score"] for r in ranked["results"]]
    assert sorted(r["index"] for r in ranked["results"]) == [0, 1, 2] and scores == sorted(scores, reverse=True)
    assert ranked["usage"]["prompt_tokens"] == ranked["usage"]["total_tokens"] > 10
    best = good("/rerank", body | {"top_n": 1, "return_documents": True})["results"]
    assert len(best) == 1 and best[0]["index"] == ranked["results"][0]["index"] and best[0]["document"]["text"]
    for bad in [{"documents": []}, {"documents": None}, {"documents": 123}, {"documents": [1, 2, 3]}, {"query": None}]:
        assert post("/v1/rerank", body | bad)[0] == 400, bad


# test_metrics: metrics_prometheus_format, metrics_prompt_processed_and_cached,
# metrics_predicted_total_matches_requests
@case
def figures_match_the_requests():
    names = ["prompt_tokens_computed", "prompt_tokens_cached", "tokens_generated"]
    before = [figure(f"nanoinfer_{name}_total") for name in names]
    answers = [completion("the quick brown fox " * 30, max_tokens=n, ignore_eos=True) for n in (1, 4, 16)]
    computed, cached, generated = (figure(f"nanoinfer_{name}_total") - b for name, b in zip(names, before))
    usage = [a["usage"] for a in answers]
    assert generated == sum(u["completion_tokens"] for u in usage) == 21
    assert cached == sum(u["prompt_tokens_details"]["cached_tokens"] for u in usage) > 0
    assert computed + cached == sum(u["prompt_tokens"] for u in usage)
    text = call(URL + "/metrics")[2]
    assert "# HELP nanoinfer_running " in text and "# TYPE nanoinfer_tokens_generated counter" in text
    assert figure("nanoinfer_running") == 0


# test_security: access_public_endpoint, incorrect_api_key, correct_api_key, correct_api_key_anthropic_header,
# openai_library_correct_api_key
@case
def keys_open_all_but_health():
    options = ["--model", f"{MODEL}={os.environ['NANOINFER_MODEL']}"]
    with Server(os.environ["NANOINFER_BINARY"], options, keys=True) as server:
        assert call(server.url + "/health")[0] == 200
        body = {"prompt": LIFE, "max_tokens": 2}
        for headers in [{}, {"Authorization": "Bearer invalid-key"}, {"x-api-key": KEY + "x"}, {"Authorization": KEY}]:
            status, _, answer = post("/v1/completions", body, server.url, headers)
            assert status == 401 and answer["error"]["type"] == "authentication_error"
        for headers in [{"Authorization": f"Bearer {KEY}"}, {"X-Api-Key": KEY}]:
            good("/v1/completions", body, server.url, headers)


# test_security: cors_origins_localhost_rejects, local_media_file (the paths that fail)
@case
def other_origins_and_files_are_refused():
    for origin in ["http://web.mydomain.fr", "http://evil.com", "http://notlocalhost", "http://localhost.evil.com"]:
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        status, found, _ = call(URL + "/v1/completions", headers=headers, method="OPTIONS")
        assert status == 403 and "Access-Control-Allow-Origin" not in found
    for url in ["file://mtmd/test-1.jpeg", "file://../mtmd/test-1.jpeg", "file:///etc/passwd"]:
        parts = [{"type": "text", "text": "test"}, {"type": "image_url", "image_url": {"url": url}}]
        assert post("/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]})[0] == 400


# test_compat_oai_responses: responses_with_openai_library, responses_stream_with_openai_library
@case
def responses_have_consistent_ids():
    fields = {"model": MODEL, "input": BOOK, "max_output_tokens": 8, "temperature": 0}
    whole = good("/v1/responses", fields)
    assert whole["id"].startswith("resp_") and whole["output"][0]["id"].startswith("msg_")
    stream = events(URL + "/v1/responses", fields)
    assert len({e["response"]["id"] for e in stream if "response" in e}) == 1
    items = {e["item_id"] for e in stream if "item_id" in e} | {e["item"]["id"] for e in stream if "item" in e}
    assert len(items) == 1 and items == {stream[-1]["response"]["output"][0]["id"]}
    text = "".join(e["delta"] for e in stream if e["type"] == "response.output_text.delta")
    assert text == whole["output"][0]["content"][0]["text"] == stream[-1]["response"]["output"][0]["content"][0]["text"]


# test_compat_anthropic: messages_basic, messages_with_system, messages_multipart_content, messages_conversation,
# stop_sequences, temperature, top_p, top_k, metadata, anthropic_vs_openai_different_response_format
@case
def messages_of_all_kinds():
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}, {"role": "user", "content": "Well?"}]
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": " the answer?"}]
    for fields in [
        {},
        {"system": "You are a helpful assistant."},
        {"messages": [{"role": "user", "content": parts}]},
        {"messages": turns},
        {"stop_sequences": ["5", "zebra"]},
        {"temperature": 0.5},
        {"top_p": 0.9},
        {"top_k": 40},
        {"metadata": {"user_id": "user-1"}},
    ]:
        answer = message(**fields)
        assert answer["type"] == "message" and answer["role"] == "assistant"
        assert answer["content"][0]["type"] == "text" and "choices" not in answer and "timings" not in answer
        assert answer["stop_reason"] in ("end_turn", "max_tokens", "stop_sequence")
        assert all(isinstance(answer["usage"][f"{k}_tokens"], int) for k in ("input", "output", "cache_read_input"))


# test_compat_anthropic: messages_streaming, streaming_content_block_indices
@case
def streams_of_messages_are_in_order():
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello"}], "max_tokens": 20}
    stream = events(URL + "/v1/messages", body)
    kinds = [e["type"] for e in stream if e["type"] != "ping"]
    order = ["message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop"]
    assert list(dict.fromkeys(kinds)) == order
    assert stream[0]["message"]["content"] == [] and stream[0]["message"]["usage"]["input_tokens"] >= 0
    assert {e["index"] for e in stream if "index" in e} == {0}
    assert stream[-2]["usage"]["output_tokens"] > 0 and stream[-2]["delta"]["stop_reason"] in ("end_turn", "max_tokens")


# test_compat_anthropic: count_tokens, count_tokens_with_system, count_tokens_no_max_tokens, missing_messages
@case
def tokens_of_messages_are_counted():
    turns = {"messages": [{"role": "user", "content": "Hello world"}]}
    counted = good("/v1/messages/count_tokens", turns)
    assert counted["input_tokens"] > 0 and "output_tokens" not in counted
    assert good("/v1/messages/count_tokens", turns | {"system": "You are helpful."})["input_tokens"] > 0
    assert post("/v1/messages", {"max_tokens": 5})[0] == 400


# test_compat_anthropic: vision_format_accepted, tool_result_with_image (without a model for images)
@case
def images_are_refused():
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
    turns = [{"role": "user", "content": [image, {"type": "text", "text": "What is this?"}]}]
    status, _, answer = post("/v1/messages", {"messages": turns, "max_tokens": 5})
    assert status == 400 and "image" in answer["error"]["message"]


# test_compat_anthropic: anthropic_thinking (the field is accepted)
@case
def a_budget_for_thinking_is_accepted():
    thinking = {"type": "enabled", "budget_tokens": 1024}
    status, _, answer = post("/v1/messages", {"messages": BOOK[1:], "max_tokens": 20, "thinking": thinking})
    assert status == 200, answer


if __name__ == "__main__":
    main()
