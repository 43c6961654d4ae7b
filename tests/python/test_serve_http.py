"""`osp serve` as a server: what it refuses and how, keys, hostile and slow clients, clients that leave,
signals."""

import json
import signal
import socket
import time

import pytest
from serve_fixture import CONTEXT, NOT_IN_INTEGERS


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
        ({"prompt": "x", "stop": ["a"] * 33}, "stop"),
        ({"prompt": "x", "stop": [1]}, "stop"),
        ({"prompt": "x", "logprobs": True}, "logprobs"),
        ({"prompt": "x", "logit_bias": {"x": 1}}, "logit_bias"),
        ({"prompt": "x", "logit_bias": {"5000": 1}}, "logit_bias"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({"prompt": "x", "presence_penalty": 2.5}, "presence_penalty"),
        ({"prompt": "x", "frequency_penalty": -3}, "frequency_penalty"),
        ({"prompt": "x", "repetition_penalty": 0}, "repetition_penalty"),
        ({"prompt": "x", "min_p": 1.5}, "min_p"),
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


def test_a_cache_beyond_the_machine_is_refused_before_it_serves(run_program, serve_folder):
    words = ["osp", "serve", serve_folder, "--port", "0", "--cache-mb", str(1 << 24)]
    refused = run_program(words, check=False)
    assert refused.returncode == 5 and not refused.stdout
    assert (
        "--cache-mb 16777216 needs about 17.59 TB" in refused.stderr and "this machine has" in refused.stderr
    )


def test_a_key_is_asked_for_everywhere_but_at_health(start_server, serve_folder, tmp_path):
    file = tmp_path / "keys"
    file.write_text("first-key\nsecond-key\n")
    for options, environment, key in (
        (["--api-key-file", file], {}, "second-key"),
        ([], {"OSP_API_KEY": "from-environment"}, "from-environment"),
    ):
        locked = start_server(serve_folder, "--threads", "1", *options, environment=environment)
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


def test_idle_connections_beyond_the_limit_make_room(server):
    connections = []
    for _ in range(80):
        connections.append(server.connect())
        connections[-1].request("GET", "/health")
        response = connections[-1].getresponse()
        assert response.status == 200 and response.read()
    assert server.text("The word", max_tokens=4)
    for connection in connections:
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


def test_a_client_that_leaves_frees_its_place(start_server, serve_folder):
    # Pages for one long text alone: the next can begin only when the first is gone.
    narrow = start_server(serve_folder, "--threads", "1", "--max-context", str(CONTEXT), "--cache-mb", "1")
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


def test_sigterm_finishes_streams_and_takes_no_more(start_server, serve_folder):
    ending = start_server(serve_folder, "--threads", "1")
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


def test_a_second_signal_ends_at_once(start_server, serve_folder):
    ending = start_server(serve_folder, "--threads", "1")
    connection, _ = begin_stream(ending, n=32)
    ending.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert ending.process.poll() is None
    assert ending.stop(signal.SIGTERM) == 75
    connection.close()


def test_models_that_the_engine_cannot_run_are_refused_with_what_to_do(
    run_program, serve_folder, simulated_folder, tmp_path
):
    source = serve_folder.parent / "source"
    plain = run_program(["osp", "serve", source], check=False)
    assert plain.returncode == 2 and "quantize it first" in plain.stderr
    other = run_program(["osp", "serve", simulated_folder], check=False)
    assert other.returncode == 3 and NOT_IN_INTEGERS in other.stderr
    small = run_program(["osp", "serve", serve_folder, "--api-key-file", tmp_path / "none"], check=False)
    assert small.returncode == 5


def resident_kb(process):
    with open(f"/proc/{process.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def test_memory_stays_when_the_cache_is_full(start_server, serve_folder):
    small = start_server(serve_folder, "--threads", "1", "--cache-mb", "2")
    connection = small.connect()

    def ask(count, word):
        for i in range(count):
            prompt = f"The {word} {i} " * 40
            connection.request("POST", "/v1/completions", json.dumps({"prompt": prompt, "max_tokens": 1}))
            assert connection.getresponse().read()

    ask(150, "word")
    before = resident_kb(small.process)
    ask(1000, "house")
    assert resident_kb(small.process) - before < 2048
    counts = small.metrics()
    # A place is kept free for the text that was last.
    assert 0 <= counts["osp_cache_pages_limit"] - counts["osp_cache_pages"] <= 2
