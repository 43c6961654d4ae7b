"""A small quantized model behind `osp serve`, for its tests: the fixtures `serve_folder`,
`start_server` and `server` of conftest.py."""

import http.client
import json
import os
import signal
import subprocess

import pytest

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


@pytest.fixture(scope="session")
def serve_folder(run_program, repo_root, tmp_path_factory):
    """A quantized folder of a random model with the shipped vocabulary."""
    # Here, because conftest.py imports this file for every test.
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

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


NOT_IN_INTEGERS = "its norms do not stand in front of the branches alone"


@pytest.fixture(scope="session")
def simulated_folder(run_program, serve_folder, tmp_path_factory):
    """A quantized folder that the integer engine does not run, for the reason NOT_IN_INTEGERS."""
    import torch
    from transformers import Olmo2Config, Olmo2ForCausalLM

    base = tmp_path_factory.mktemp("simulated")
    torch.manual_seed(1)
    settings = {name: value for name, value in LLAMA.items() if name != "head_dim"}
    Olmo2ForCausalLM(Olmo2Config(**settings)).save_pretrained(base / "source")
    tokenizer = serve_folder.parent / "source" / "tokenizer.json"
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


@pytest.fixture(scope="session")
def start_server(osp_build):
    """start_server(model, *options) -> Server, stopped at the end."""
    servers = []

    def make(*words, **keywords):
        servers.append(Server(osp_build / "osp", *words, **keywords))
        return servers[-1]

    yield make
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()


@pytest.fixture(scope="session")
def server(start_server, serve_folder):
    return start_server(serve_folder, "--threads", "2", "--head", "16")
