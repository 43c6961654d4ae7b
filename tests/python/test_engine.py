"""The integer engine against an independent program in PyTorch (engine_reference.py), bit for bit, and from
the outside: the same text and numbers whatever the instruction set, threads and cut."""

import hashlib
import json
import os
import subprocess
from collections import defaultdict

import numpy as np
import pytest
import serve_fixture
import torch
from engine_reference import Engine, paley
from transformers import AutoConfig, AutoModelForCausalLM

POINTS = {1: "attention_input", 3: "key", 4: "value", 6: "attention_output", 7: "mlp_input", 8: "mlp_product"}
LLAMA = {**serve_fixture.LLAMA, "max_position_embeddings": 512}

# Options of osp quantize, by what they bring to the engine.
FOLDERS = {
    "plain": [],
    "asymmetric groups": ["--asymmetric", "--group", "16"],
    "static scales": ["--activation-scales", "per-tensor"],
    "groups of activations": ["--activation-group", "16", "--down-group", "48"],
    "offsets": ["--mean-offset", "all"],
    "rotated": ["--method", "quarot+rtn"],
    "8-bit activations": ["--bits", "4-8-4"],
    "16-bit activations": ["--bits", "4-16-4"],
    "8-bit cache": ["--bits", "4-8-8"],
    "8-bit weights": ["--bits", "8-8-8"],
    "8-bit weights alone": ["--bits", "8-16-16", "--group", "16"],
    "weights alone": ["--bits", "4-16-16", "--asymmetric", "--group", "16"],
    "qwen3": [],
    "smollm3": [],
    "seed_oss": [],
    "ernie4_5": [],
    "ministral": [],
    "ministral3": [],
    "phi3": [],
    "granite": [],
    "extremes": [],
}
# Families, and what their models have beside a Llama's sizes.
KINDS = {
    "qwen3": {},
    "smollm3": {"no_rope_layers": [1, 0] * LLAMA["num_hidden_layers"]},
    "seed_oss": {"attention_out_bias": True},
    "ernie4_5": {},
    "ministral": {
        "sliding_window": 7,
        "layer_types": ["sliding_attention", "full_attention"] * (LLAMA["num_hidden_layers"] // 2),
    },
    "ministral3": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.3,
        }
    },
    "phi3": {},
    "granite": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.3,
        "attention_multiplier": 0.2,
        "logits_scaling": 3.0,
    },
    "extremes": {"attention_out_bias": True},
}


def make_extreme(model):
    """Values of a head near 5, whose zero points are beyond ±10⁵, and a head of keys that are all zero."""
    for layer in model.model.layers:
        attention = layer.self_attn
        attention.v_proj.weight.data[:32] *= 1e-5
        attention.v_proj.bias.data[:32] = 5.0
        attention.v_proj.bias.data[32:64] = -5.0
        attention.v_proj.weight.data[32:64] *= 1e-5
        attention.k_proj.weight.data[:32] = 0
        attention.k_proj.bias.data[:32] = 0


def base_of(size):
    """The base of the Hadamard matrix of this size: 12 for 96, powers of two need none."""
    return paley(12) if size == 96 else torch.ones(1, 1)


@pytest.fixture(scope="module")
def text(repo_root):
    return repo_root / "README.md"


@pytest.fixture(scope="module")
def folders(run_program, repo_root, text, tmp_path_factory):
    """make(name): a quantized folder of a random model with the shipped vocabulary."""
    folder = tmp_path_factory.mktemp("engine")
    made = {}

    def make(name):
        if name in made:
            return made[name]
        kind = name if name in KINDS else "llama"
        source = folder / f"source-{kind}"
        if not source.exists():
            torch.manual_seed(1)
            more = {**KINDS.get(kind, {}), "pad_token_id": None}
            config = AutoConfig.for_model("seed_oss" if kind == "extremes" else kind, **LLAMA, **more)
            model = AutoModelForCausalLM.from_config(config).float()
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.15) if parameter.ndim > 1 else parameter.data.add_(
                    torch.randn(parameter.shape) * 0.1
                )
            if kind == "extremes":
                make_extreme(model)
            model.save_pretrained(source)
            tokenizer = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"
            (source / "tokenizer.json").write_bytes(tokenizer.read_bytes())
        options = FOLDERS[name]
        method = [] if "--method" in options else ["--method", "rtn"]
        needs_text = any(o in ("--activation-scales", "--mean-offset") for o in options)
        calibration = ["--calibration", text, "--windows", "8", "--length", "64"] if needs_text else []
        out = folder / name.replace(" ", "-")
        run_program(["osp", "quantize", source, *method, *options, *calibration, "--out", out])
        made[name] = out
        return out

    return make


@pytest.fixture(scope="module")
def probe(osp_build, tmp_path_factory):
    """probe(folder, ids, threads, head bits, chunk, isa=, trace=): final states and logits."""
    folder = tmp_path_factory.mktemp("probe")

    def run(model, ids, threads=1, head_bits=16, chunk=None, isa=None, trace=None):
        np.array(ids, np.int32).tofile(folder / "ids")
        words = [osp_build / "engine_probe", model, folder / "ids", folder / "out", threads, head_bits]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if isa:
            environment["OSP_ISA"] = isa
        if trace:
            environment["OSP_ENGINE_TRACE"] = str(trace)
        result = subprocess.run(
            [str(w) for w in [*words, chunk or len(ids)]], env=environment, capture_output=True, text=True
        )
        if "this CPU supports" in result.stderr:
            pytest.skip(result.stderr)
        assert result.returncode == 0, result.stderr
        numbers = np.fromfile(folder / "out", np.float32)
        width = json.loads((model / "config.json").read_text())["hidden_size"]
        states = torch.tensor(numbers[: len(ids) * width]).view(len(ids), width)
        return states, torch.tensor(numbers[len(ids) * width :]).view(len(ids), -1)

    return run


def ids_of(count):
    return torch.randint(4096, (count,), generator=torch.Generator().manual_seed(3)).tolist()


@pytest.mark.parametrize("name", FOLDERS)
def test_codes_and_states_are_those_of_an_independent_program(folders, probe, tmp_path, name):
    ids = ids_of(150 if name == "plain" else 40)
    reference = Engine(folders(name), base_of)
    expected = reference.states(torch.tensor(ids))
    states, logits = probe(folders(name), ids, trace=tmp_path / "trace")
    # Every code of every quantizer: the trace has the rows of each pass of 64 anew.
    seen = defaultdict(list)
    for line in (tmp_path / "trace").read_text().splitlines():
        point, layer, _, *codes = line.split()
        seen[POINTS[int(point)], int(layer)].append([int(c) for c in codes])
    heads = reference.kv_heads
    for point, layer, codes in reference.codes:
        shifted = reference.bits[1] == 8 and point not in ("key", "value")
        rows = torch.tensor(seen[point, layer]) + (128 if shifted else 0)
        if point in ("key", "value"):
            rows = by_token(rows, heads, len(ids))
        assert torch.equal(rows.to(torch.float32), codes), (point, layer)
    assert torch.equal(states, expected)
    assert torch.equal(logits[:3], reference.logits(expected[:3]))


def test_the_extremes_are_extreme(folders):
    reference = Engine(folders("extremes"), base_of)
    reference.states(torch.tensor(ids_of(40)))
    zeros = torch.stack(reference.value_zeros)
    assert zeros.min() < -1e5 and zeros.max() > 1e5
    keys = [codes.view(40, reference.kv_heads, -1) for point, _, codes in reference.codes if point == "key"]
    assert all((codes[:, 0] == codes[:, 0, :1]).all() for codes in keys)


def by_token(rows, heads, tokens):
    """Rows of passes of 64 tokens, head by head, in the order of tokens."""
    out, begin = [], 0
    for first in range(0, tokens, 64):
        count = min(64, tokens - first)
        part = rows[begin : begin + count * heads].view(heads, count, -1)
        out.append(part.transpose(0, 1).reshape(count * heads, -1))
        begin += count * heads
    return torch.cat(out)


def test_one_hash_for_every_instruction_set_thread_count_and_cut(folders, probe):
    ids = ids_of(200)
    hashes = set()
    for isa in ("portable", "avx2", "avx512", None):
        for threads, chunk in ((1, 200), (2, 64), (2, 7), (1, 1)):
            try:
                states, logits = probe(folders("rotated"), ids, threads, 16, chunk, isa)
            except pytest.skip.Exception:
                continue
            both = states.numpy().tobytes() + logits.numpy().tobytes()
            hashes.add(hashlib.sha256(both).hexdigest())
    assert len(hashes) == 1


def test_one_wrong_rounding_would_be_seen(folders, probe):
    """The control: an embedding that differs by an ulp of fp16 gives other states."""
    ids = ids_of(40)
    reference = Engine(folders("plain"), base_of)
    table = reference.tensors["model.embed_tokens.weight"].float()
    reference.tensors["model.embed_tokens.weight"] = table
    table[ids[0], 0] = torch.tensor(np.nextafter(np.float16(table[ids[0], 0]), np.float16(10)).item())
    assert not torch.equal(reference.states(torch.tensor(ids)), probe(folders("plain"), ids)[0])


def loss(run_program, folder, text, engine):
    words = ["osp", "eval", folder, "--data", text, "--engine", engine, "--json"]
    return json.loads(run_program(words).stdout)["results"][0]["loss"]


@pytest.mark.parametrize("name", ["plain", "8-bit activations", "weights alone"])
def test_perplexity_is_near_that_of_the_simulation(run_program, folders, text, name):
    """Random weights are chaotic; both are the same model up to what one rounding can do."""
    integer, simulated = (loss(run_program, folders(name), text, e) for e in ("integer", "simulated"))
    assert integer != simulated
    assert abs(integer - simulated) < 0.02 * simulated


def test_generate_writes_the_same_text_on_any_threads_and_head(run_program, folders, osp_build):
    def text_of(*options, threads="1"):
        words = [
            "generate",
            folders("plain"),
            "--prompt",
            "The word",
            "--max-tokens",
            "40",
            "--json",
            *options,
        ]
        result = subprocess.run(
            [str(w) for w in [osp_build / "osp", *words]],
            env={**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(result.stdout)

    first = text_of()
    assert "integer engine" in first["engine"] and len(first["tokens"]) == 40
    for other in (text_of(threads="2"), text_of("--head", "16"), text_of("--head", "4")):
        assert other["tokens"] == first["tokens"]
    assert "simulated" in text_of("--engine", "simulated")["engine"]


def test_requests_are_answered_alike_alone_and_together(run_program, folders):
    """Packed texts with shared beginnings give each request's own bits."""
    lines = [
        {"context": "The word of the", "continuation": " house"},
        {"context": "The word of the", "continuation": " houses and gardens"},
        {"context": "The word of", "continuation": " a king"},
        {"context": "Nothing", "max_tokens": 12},
        {"context": "The word of the", "max_tokens": 9},
    ]

    def answers(requests):
        text = "".join(json.dumps(line) + "\n" for line in requests)
        words = ["osp", "score", folders("plain"), "--requests", "-", "--quiet"]
        return [json.loads(line) for line in run_program(words, input=text).stdout.splitlines()]

    together = answers(lines)
    assert [answers([line])[0] for line in lines] == together


def test_models_that_it_cannot_run_are_simulated_or_refused_with_the_reason(
    run_program, serve_folder, simulated_folder
):
    words = ["osp", "generate", simulated_folder, "--prompt", "x", "--max-tokens", "2"]
    assert serve_fixture.NOT_IN_INTEGERS in run_program(words).stderr
    refused = run_program([*words, "--engine", "integer"], check=False)
    assert refused.returncode == 3 and serve_fixture.NOT_IN_INTEGERS in refused.stderr
    source = serve_folder.parent / "source"
    plain = run_program(["osp", "generate", source, "--prompt", "x", "--engine", "integer"], check=False)
    assert plain.returncode == 2 and "quantize it first" in plain.stderr
