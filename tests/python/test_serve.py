"""`osp serve` as its clients see it: OpenAI's API over HTTP on a random quantized model."""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

CONTEXT = 768
LLAMA = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=CONTEXT,
    vocab_size=4096,
)


@pytest.fixture(scope="module")
def folder(run_program, repo_root, tmp_path_factory):
    """A quantized folder of a random model with the shipped vocabulary."""
    base = tmp_path_factory.mktemp("serve")
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**LLAMA)).float()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(base / "source")
    tokenizer = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"
    (base / "source" / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    run_program(["osp", "quantize", base / "source", "--method", "rtn", "--out", base / "tiny"])
    return base / "tiny"


class Server:
    """A running `osp serve`."""

    def __init__(self, program, model, *options, environment=()):
        words = [str(w) for w in [program, "serve", model, "--port", "0", "--json", *options]]
        self.process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **dict(environment)},
        )
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise AssertionError(self.process.stderr.read())
        self.banner = json.loads(line)
        self.port = int(self.banner["url"].rsplit(":", 1)[1].strip("/"))

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def request(self, method, path, body=None, headers=None):
        """(status, JSON or text) on a connection of its own."""
        connection = self.connect()
        data = json.dumps(body) if isinstance(body, (dict, list)) else body
        connection.request(method, path, data, headers or {})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        is_json = response.getheader("Content-Type").startswith("application/json")
        return response.status, json.loads(text) if is_json else text

    def post(self, path, **body):
        status, answer = self.request("POST", path, body)
        assert status == 200, answer
        return answer

    def complete(self, prompt, **body):
        return self.post("/v1/completions", prompt=prompt, **{"temperature": 0, **body})

    def text(self, prompt, **body):
        return self.complete(prompt, **body)["choices"][0]["text"]

    def refusal(self, path="/v1/completions", **body):
        status, answer = self.request("POST", path, body)
        return status, answer["error"]

    def events(self, path, **body):
        """The data of a streamed answer's events, without the last, which must be [DONE]."""
        text = self.request("POST", path, {**body, "stream": True})[1]
        events = [e.removeprefix("data: ") for e in text.split("\n\n") if e and not e.startswith(":")]
        assert events.pop() == "[DONE]"
        return [json.loads(e) for e in events]

    def metrics(self):
        lines = self.request("GET", "/metrics")[1].splitlines()
        return {k: int(v) for k, v in (line.split() for line in lines if not line.startswith("#"))}

    def stop(self, with_signal=signal.SIGTERM):
        self.process.send_signal(with_signal)
        return self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def start(osp_build):
    """start(model, *options) -> Server, stopped at the end."""
    servers = []

    def make(*words, **keywords):
        servers.append(Server(osp_build / "osp", *words, **keywords))
        return servers[-1]

    yield make
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def server(start, folder):
    return start(folder, "--threads", "2", "--head", "16")


def generated(run_program, folder, prompt, *options):
    words = ["osp", "generate", folder, "--prompt", prompt, "--json", *options]
    return json.loads(run_program(words).stdout)


def test_the_banner_names_address_kernels_and_threads(server, start, folder, osp_build):
    assert server.banner["threads"] == 2 and server.banner["kernels"] and server.banner["head_bits"] == 16
    plain = subprocess.Popen(
        [osp_build / "osp", "serve", folder, "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    line = plain.stdout.readline()
    plain.terminate()
    assert plain.wait(timeout=30) == 0
    assert line.startswith("serving tiny at http://127.0.0.1:") and "threads" in line and "8-bit head" in line


def test_text_is_that_of_osp_generate(server, run_program, folder):
    for prompt in ("The word", ""):
        expected = generated(run_program, folder, prompt, "--max-tokens", "24")
        answer = server.complete(prompt, max_tokens=24)
        assert answer["choices"][0]["text"] == expected["text"]
        assert answer["usage"]["prompt_tokens"] == len(expected["prompt_tokens"])
        # The same from token ids.
        assert server.text(expected["prompt_tokens"], max_tokens=24) == expected["text"]
    sampling = ["--temperature", "0.9", "--top-p", "0.8", "--seed", "7", "--max-tokens", "24"]
    expected = generated(run_program, folder, "The word", *sampling, "--head", "16")["text"]
    assert server.text("The word", temperature=0.9, top_p=0.8, seed=7, max_tokens=24) == expected


PROMPTS = [f"{'The word of the house number ' * (i % 5 * 9)}{i} is" for i in range(16)]


def test_sixteen_at_once_write_what_each_writes_alone(server):
    """Bits do not depend on the texts beside it, on the pieces of a prompt or on what was cached."""

    def ask(prompt):
        return server.complete(prompt, max_tokens=20, logprobs=2)["choices"][0]

    alone = [ask(p) for p in PROMPTS]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, PROMPTS))
    assert together == alone
    # And as one request.
    choices = server.complete(PROMPTS, max_tokens=20, logprobs=2)["choices"]
    assert [{**c, "index": 0} for c in choices] == alone
    assert [c["index"] for c in choices] == list(range(16))


def test_sampled_texts_do_not_depend_on_others(server):
    def ask(seed):
        return server.text("The word", max_tokens=16, temperature=1, seed=seed)

    alone = [ask(seed) for seed in range(12)]
    assert len(set(alone)) > 6
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(12))) == alone


def test_a_prefix_hit_is_reported_and_changes_nothing(start, folder):
    fresh = start(folder, "--threads", "1")
    prompt = "It is a truth that all the men and women of the house know. " * 20
    first = fresh.complete(prompt, max_tokens=12, logprobs=1)
    tokens = first["usage"]["prompt_tokens"]
    assert tokens > 256 and first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    again = fresh.complete(prompt, max_tokens=12, logprobs=1)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == (tokens - 1) // 128 * 128
    assert again["choices"] == first["choices"]
    other = fresh.complete(prompt + "But", max_tokens=12)
    assert other["usage"]["prompt_tokens_details"]["cached_tokens"] >= 256
    assert fresh.metrics()["osp_cached_tokens_total"] >= 512
    assert fresh.stop() == 0


def test_a_stream_has_the_text_of_one_piece(server):
    body = dict(prompt="The word", max_tokens=24, temperature=0, logprobs=2)
    whole = server.post("/v1/completions", **body)
    events = server.events("/v1/completions", **body, stream_options={"include_usage": True})
    last = events.pop()
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert all(e["usage"] is None and e["object"] == "text_completion" for e in events)
    choices = [e["choices"][0] for e in events]
    assert "".join(c["text"] for c in choices) == whole["choices"][0]["text"]
    assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + ["length"]
    for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        joined = [x for c in choices if c["logprobs"] for x in c["logprobs"][key]]
        assert joined == whole["choices"][0]["logprobs"][key]
    assert "usage" not in server.events("/v1/completions", **body)[0]


def test_chat_streams_begin_with_a_role_and_end_with_an_empty_delta(server):
    body = dict(messages=[{"role": "user", "content": "Hello"}], max_completion_tokens=12, temperature=0)
    whole = server.post("/v1/chat/completions", **body, logprobs=True, top_logprobs=2)
    choice = whole["choices"][0]
    assert whole["object"] == "chat.completion" and choice["message"]["role"] == "assistant"
    rendered = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert choice["message"]["content"] == server.text(rendered, max_tokens=12)
    for entry in choice["logprobs"]["content"]:
        assert bytes(entry["bytes"]).decode(errors="replace") == entry["token"]
        assert len(entry["top_logprobs"]) == 2
        assert entry["top_logprobs"][0]["logprob"] == entry["logprob"]
    assert whole["usage"]["completion_tokens"] == len(choice["logprobs"]["content"]) == 12
    events = server.events("/v1/chat/completions", **body)
    deltas = [e["choices"][0]["delta"] for e in events]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    assert "".join(d.get("content", "") for d in deltas) == choice["message"]["content"]
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]
    again = server.post("/v1/chat/completions", **{**body, "messages": parts, "max_tokens": 3})
    assert again["choices"][0]["message"]["content"] == choice["message"]["content"]


@pytest.fixture(scope="module")
def ids_of(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: tokenizer.encode(text).ids


def test_echo_with_logprobs_gives_the_log_likelihoods_of_osp_score(server, run_program, folder, ids_of):
    """What lm-eval's local-completions sends: ids, one token, echo."""
    pairs = [("The word of the", " house and gardens"), ("A", " king"), ("It is a truth " * 30, " that all")]
    ids = [(ids_of(c), ids_of(t)) for c, t in pairs]
    lines = "".join(json.dumps({"context": c, "continuation": t}) + "\n" for c, t in ids)
    words = ["osp", "score", folder, "--requests", "-", "--quiet", "--head", "16"]
    scores = [json.loads(line) for line in run_program(words, input=lines).stdout.splitlines()]
    body = dict(max_tokens=1, logprobs=1, seed=1234, echo=True)
    answer = server.complete([c + t for c, t in ids], **body)
    for (context, continuation), score, choice in zip(ids, scores, answer["choices"], strict=True):
        logprobs = choice["logprobs"]
        count = len(context) + len(continuation)
        assert {len(logprobs[key]) for key in logprobs} == {count + 1}
        assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
        values = logprobs["token_logprobs"][len(context) : -1]
        # osp score sums exp in fp32.
        assert sum(values) == pytest.approx(score["log_likelihood"], rel=1e-6, abs=1e-5)
        top = logprobs["top_logprobs"][len(context) : -1]
        assert all(v == max(t.values()) for v, t in zip(values, top, strict=True)) == score["greedy"]
    # Alone it is the same in every digit.
    assert [server.complete(c + t, **body)["choices"][0]["logprobs"] for c, t in ids] == [
        c["logprobs"] for c in answer["choices"]
    ]


def test_offsets_point_to_the_tokens_in_the_text(server):
    text = "The naïve café — of the word"
    choice = server.complete(text, max_tokens=8, logprobs=0, echo=True)["choices"][0]
    assert choice["text"].startswith(text)
    logprobs = choice["logprobs"]
    assert logprobs["top_logprobs"] is None
    ends = [*logprobs["text_offset"][1:], len(choice["text"])]
    for token, begin, end in zip(logprobs["tokens"], logprobs["text_offset"], ends, strict=True):
        if not token.startswith("bytes:"):
            assert choice["text"][begin:end] == token
    assert server.text(text, max_tokens=0, echo=True) == text


def test_stop_strings_end_the_text_before_them_and_are_never_shown(server):
    whole = server.text("The word", max_tokens=40)
    for begin, length in ((5, 9), (11, 3), (20, 14)):
        stop = whole[begin : begin + length]
        expected = whole[: whole.index(stop)]
        body = dict(max_tokens=40, stop=["never there", stop], logprobs=1)
        choice = server.complete("The word", **body)["choices"][0]
        assert choice["text"] == expected and choice["finish_reason"] == "stop"
        assert all(offset < max(len(expected), 1) for offset in choice["logprobs"]["text_offset"])
        events = server.events("/v1/completions", prompt="The word", temperature=0, **body)
        assert "".join(e["choices"][0]["text"] for e in events) == expected
        assert events[-1]["choices"][0]["finish_reason"] == "stop"


def test_several_texts_and_seeds(server):
    def texts(**body):
        choices = server.complete("The", temperature=1, max_tokens=12, **body)["choices"]
        return [c["text"] for c in choices]

    four = texts(n=4, seed=3)
    assert len(set(four)) == 4
    assert texts(n=4, seed=3) == four and texts(seed=3) == four[:1]
    assert texts(seed=4) != four[:1]
    assert texts() != texts()
    usage = server.complete([5, 6], n=3, max_tokens=2)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (2, 6, 8)


def test_logit_bias_moves_the_choice(server):
    first = server.complete("The word", max_tokens=1, logprobs=2)["choices"][0]["logprobs"]
    banned = server.complete("The word", max_tokens=1, logprobs=2, logit_bias={"100": 100})["choices"][0]
    assert banned["logprobs"]["tokens"] != first["tokens"]
    # Log-probabilities are the model's own.
    assert list(banned["logprobs"]["top_logprobs"][0].items())[:2] == list(first["top_logprobs"][0].items())


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": [4096]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": "x", "max_tokens": "many"}, "max_tokens"),
        ({"prompt": "x", "max_tokens": -1}, "max_tokens"),
        ({"prompt": "x", "max_tokens": 1e3}, "max_tokens"),
        ({"prompt": "x", "temperature": -1}, "temperature"),
        ({"prompt": "x", "top_p": 1.5}, "top_p"),
        ({"prompt": "x", "n": 0}, "n"),
        ({"prompt": "x", "n": 2**63}, "n"),
        ({"prompt": "x", "stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"prompt": "x", "stop": [1]}, "stop"),
        ({"prompt": "x", "logprobs": True}, "logprobs"),
        ({"prompt": "x", "logit_bias": {"x": 1}}, "logit_bias"),
        ({"prompt": "x", "logit_bias": {"5000": 1}}, "logit_bias"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({"prompt": "x", "presence_penalty": 0.5}, "presence_penalty"),
        ({"prompt": "x", "stream_options": {}}, "stream_options"),
        ({"prompt": "x", "temprature": 1}, "temprature"),
    ],
)
def test_bad_parameters_are_refused_by_name(server, body, param):
    status, error = server.refusal(**body)
    assert status == 400 and error["param"] == param and error["type"] == "invalid_request_error"
    assert param in error["message"]


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0]"),
    ],
)
def test_what_a_chat_cannot_have_is_refused_by_name(server, extra, param):
    body = {"messages": [{"role": "user", "content": "x"}], **extra}
    status, error = server.refusal("/v1/chat/completions", **body)
    assert status == 400 and error["param"] == param


def test_parameters_without_effect_are_accepted(server):
    server.post(
        "/v1/chat/completions",
        model="tiny",
        messages=[{"role": "user", "content": "x"}],
        max_tokens=1,
        user="me",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        prompt_cache_key="k",
        safety_identifier="s",
        tools=[],
        response_format={"type": "text"},
        presence_penalty=0,
        stop=None,
        n=None,
    )


def test_errors_have_the_status_and_code_that_clients_expect(server):
    status, error = server.refusal(prompt="x", model="gpt-4")
    assert (status, error["code"]) == (404, "model_not_found") and "tiny" in error["message"]
    status, error = server.refusal(prompt=[5] * (CONTEXT - 10), max_tokens=20)
    assert (status, error["code"]) == (400, "context_length_exceeded") and str(CONTEXT) in error["message"]
    assert server.complete([5] * CONTEXT, max_tokens=1)["usage"]["completion_tokens"] == 1
    assert server.request("GET", "/v1/nothing")[0] == 404
    assert server.request("GET", "/v1/completions")[0] == 405
    assert server.request("DELETE", "/v1/models")[0] == 405
    assert server.request("POST", "/v1/completions", "{")[0] == 400
    assert server.request("POST", "/v1/completions", b'{"prompt": "\xff"}')[0] == 400
    status, answer = server.request("POST", "/v1/completions", "[" * 10_000 + "]" * 10_000)
    assert status == 400 and "nested deeper" in answer["error"]["message"]


def test_models_health_and_metrics(server):
    status, models = server.request("GET", "/v1/models")
    assert status == 200 and [m["id"] for m in models["data"]] == ["tiny"]
    assert server.request("GET", "/v1/models/tiny")[1]["max_model_len"] == CONTEXT
    assert server.request("GET", "/health") == (200, {"status": "ok"})
    before = server.metrics()
    server.complete("The word", max_tokens=5)
    after = server.metrics()
    assert after["osp_written_tokens_total"] - before["osp_written_tokens_total"] == 5
    assert after["osp_texts_total"] - before["osp_texts_total"] == 1


def test_a_key_is_asked_for_everywhere_but_at_health(start, folder, tmp_path):
    file = tmp_path / "keys"
    file.write_text("first-key\nsecond-key\n")
    for options, environment, key in (
        (["--api-key-file", file], {}, "second-key"),
        ([], {"OSP_API_KEY": "from-environment"}, "from-environment"),
    ):
        locked = start(folder, "--threads", "1", *options, environment=environment)
        assert locked.request("GET", "/health")[0] == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": key}):
            for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("POST", "/v1/completions")):
                body = {"prompt": "x"} if method == "POST" else None
                status, answer = locked.request(method, path, body, headers)
                assert status == 401 and answer["error"]["code"] == "invalid_api_key"
        good = {"Authorization": f"Bearer {key}"}
        assert locked.request("POST", "/v1/completions", {"prompt": "x"}, good)[0] == 200
        assert locked.stop() == 0


def raw(server, data, wait=10.0):
    """What the server answers to these bytes, until it closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait) as connection:
        connection.sendall(data)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def test_hostile_requests_are_refused_and_the_server_goes_on(server):
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n".encode()
    body = b'{"prompt": "x", "max_tokens": 1}'
    length = b"Content-Length: %d\r\n" % len(body)
    for fields, status in (
        (length + length, 400),
        (length + b"Content-Length: 5\r\n", 400),
        (length + b"Transfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n", 411),
        (b"", 411),
        (b"Content-Length: 8388609\r\n", 413),
        (length + b"X : 1\r\n", 400),
        (length + b"X: " + b"y" * 9000 + b"\r\n", 431),
    ):
        answer = raw(server, head + fields + b"\r\n" + body)
        assert answer.startswith(b"HTTP/1.1 %d " % status), (fields[:60], answer[:60])
        assert b'"error"' in answer and b"Connection: close" in answer
    foreign = head.replace(b"127.0.0.1", b"evil.example") + length + b"\r\n" + body
    assert raw(server, foreign).startswith(b"HTTP/1.1 403 ")
    # A body beyond the limit that is really sent: the answer arrives before the connection ends.
    status, answer = server.request("POST", "/v1/completions", b"x" * (8 << 20 | 1))
    assert status == 413 and "8 MB" in answer["error"]["message"]
    assert server.request("GET", "/health")[0] == 200


def test_slow_clients_hold_up_nobody(server):
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
    for connection in slow:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\n")
    assert server.text("The word", max_tokens=4)
    for connection in slow:
        connection.close()


def test_a_connection_serves_several_requests(server):
    connection = server.connect()
    for _ in range(3):
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "x", "max_tokens": 1}))
        response = connection.getresponse()
        assert response.status == 200 and json.loads(response.read())["choices"]
    connection.close()


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def begin_stream(server, prompt="The word", **body):
    """A connection that has received the beginning of a long streamed text."""
    connection = server.connect()
    # Texts without an end token, as long as the context.
    body = {"prompt": prompt, "stream": True, "temperature": 0, "max_tokens": CONTEXT - 60, **body}
    connection.request("POST", "/v1/completions", json.dumps(body))
    response = connection.getresponse()
    assert response.status == 200
    return connection, response


def test_a_client_that_leaves_frees_its_place(start, folder):
    # Pages for one long text alone: the next can begin only when the first is gone.
    narrow = start(folder, "--threads", "1", "--max-context", str(CONTEXT), "--cache-mb", "1")
    connections = [begin_stream(narrow, n=128) for _ in range(1)]
    wait_until(lambda: narrow.metrics()["osp_texts_active"] > 0)
    for connection, response in connections:
        response.close()
        connection.close()
    wait_until(lambda: narrow.metrics()["osp_texts_active"] == 0)
    counts = narrow.metrics()
    assert counts["osp_texts_waiting"] == 0 and counts["osp_texts_cancelled_total"] > 0
    assert counts["osp_cache_pages"] <= counts["osp_cache_pages_limit"]
    assert narrow.text("The word", max_tokens=4)
    assert narrow.stop() == 0


def test_too_many_texts_are_refused_with_a_time_to_wait(server):
    connection = server.connect()
    connection.request("POST", "/v1/completions", json.dumps({"prompt": ["x"] * 100, "n": 128}))
    response = connection.getresponse()
    assert response.status == 429 and int(response.getheader("Retry-After")) > 0
    connection.close()


def test_sigterm_finishes_streams_and_takes_no_more(start, folder):
    ending = start(folder, "--threads", "1")
    expected = ending.text("The word", max_tokens=CONTEXT - 60)
    connection, response = begin_stream(ending)
    ending.process.send_signal(signal.SIGTERM)
    text = response.read().decode()
    assert text.endswith("data: [DONE]\n\n")
    events = [json.loads(e.removeprefix("data: ")) for e in text.split("\n\n")[:-2]]
    assert "".join(e["choices"][0]["text"] for e in events) == expected
    connection.close()
    assert ending.process.wait(timeout=30) == 0
    with pytest.raises(ConnectionRefusedError):
        ending.request("GET", "/health")


def test_a_second_signal_ends_at_once(start, folder):
    ending = start(folder, "--threads", "1")
    connection, _ = begin_stream(ending, n=32)
    ending.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert ending.process.poll() is None
    assert ending.stop(signal.SIGTERM) == 75
    connection.close()


def test_models_that_the_engine_cannot_run_are_refused_with_what_to_do(run_program, folder, tmp_path):
    source = folder.parent / "source"
    plain = run_program(["osp", "serve", source], check=False)
    assert plain.returncode == 2 and "quantize it first" in plain.stderr
    run_program(["osp", "quantize", source, "--method", "rtn", "--bits", "4-16-16", "--out", tmp_path / "w4"])
    wide = run_program(["osp", "serve", tmp_path / "w4"], check=False)
    assert wide.returncode == 3 and "its activations have 16 bits" in wide.stderr
    small = run_program(["osp", "serve", folder, "--api-key-file", tmp_path / "none"], check=False)
    assert small.returncode == 5
