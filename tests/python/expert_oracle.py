"""Mixtures of experts computed apart from osp, on transformers' Qwen3-MoE, OLMoE and gpt-oss: weights and
products of an expert, GPTQ in fp64 on its own tokens, kurtosis; and the folders that the tests compare."""

import json
import re

import pytest
import torch
import torch.nn.functional as F
from oracles import quantize_methods as oracle
from safetensors.torch import load_file
from small_tokenizers import letter_tokenizer
from train_fixture import one_thread

WINDOWS, LENGTH = 32, 32


def letters(tokens):
    return "".join(chr(33 + i) for i in tokens)


def write_source(model, folder):
    """Writes FOLDER/model and a text of one token a character; (model, FOLDER, the text, its tokens)."""
    model.save_pretrained(folder / "model")
    (folder / "model" / "tokenizer.json").write_text(json.dumps(letter_tokenizer()))
    tokens = torch.randint(0, 94, (4000,), generator=torch.Generator().manual_seed(2)).tolist()
    (folder / "text.txt").write_text(letters(tokens))
    return model, folder, folder / "text.txt", tokens


def quantize_once(run_program, folder, text, options, *names):
    """`osp quantize FOLDER/model` with these options; the folder is named by them, and made once."""
    out = folder / re.sub(r"\W+", "-", "-".join(str(o) for o in (*names, *options)))
    if not out.exists():
        run_program(["osp", "quantize", folder / "model", "--calibration", text,
                     "--windows", WINDOWS, "--length", LENGTH, "--calibration-type", "fp32", "--tables",
                     "fp32", "--out", out, "--quiet", *options], env=one_thread())  # fmt: skip
    return out


def codes_of(folder):
    """{name: codes [out, in]}, {name: scale} of a folder with 4-bit weights, unpacked by hand."""
    tensors = load_file(folder / "model.safetensors")
    codes, scales = {}, {}
    for name in [n[: -len("_packed")] for n in tensors if n.endswith("_packed")]:
        words = tensors[name + "_packed"]
        nibbles = torch.stack([(words >> (4 * i)) & 15 for i in range(8)], -1).flatten(1)
        codes[name] = nibbles[:, : tensors[name + "_shape"][1]].double() - 8
        scales[name] = tensors[name + "_scale"].double()
    return codes, scales


def share_that_differs(found, wanted, only=""):
    assert found.keys() == wanted.keys()
    names = [n for n in found if only in n]
    return sum((found[n] != wanted[n]).sum().item() for n in names) / sum(found[n].numel() for n in names)


# ---- the parts of a mixture ----------------------------------------------------------------------


def is_gpt_oss(model):
    return model.config.model_type == "gpt_oss"


def router_of(layer):
    return layer.mlp.router if hasattr(layer.mlp, "router") else layer.mlp.gate


def experts_in(model, layer):
    """Their number; 0 of a dense block."""
    mlp = model.model.layers[layer].mlp
    return len(mlp.experts.down_proj) if hasattr(mlp, "experts") else 0


def expert_weights(model, layer, expert):
    experts = model.model.layers[layer].mlp.experts
    gate_up, down = experts.gate_up_proj[expert], experts.down_proj[expert]
    if is_gpt_oss(model):
        gate, up, down = gate_up.T[::2], gate_up.T[1::2], down.T
    else:
        gate, up = gate_up.chunk(2)
    return {"gate_proj": gate, "up_proj": up, "down_proj": down}


def expert_product(model, layer, expert, rows):
    """The input of an expert's down projection, by the equation."""
    experts, w = model.model.layers[layer].mlp.experts, expert_weights(model, layer, expert)
    gate, up = rows @ w["gate_proj"].T, rows @ w["up_proj"].T
    if not is_gpt_oss(model):
        return F.silu(gate) * up
    bias = experts.gate_up_proj_bias[expert]
    gate = (gate + bias[::2]).clamp(max=experts.limit)
    up = (up + bias[1::2]).clamp(-experts.limit, experts.limit)
    return (1 + up) * gate * torch.sigmoid(experts.alpha * gate)


def stored_weights(model):
    for name, w in model.named_parameters():
        if w.dim() == 2 and "experts" not in name:
            yield name, w.detach()
    for layer in range(model.config.num_hidden_layers):
        for expert in range(experts_in(model, layer)):
            for part, w in expert_weights(model, layer, expert).items():
                yield f"model.layers.{layer}.mlp.experts.{expert}.{part}.weight", w.detach()


@torch.no_grad()
def put_weights(model, values):
    """Writes {osp's name: weight} into a model of transformers."""
    for name, value in values.items():
        found = re.fullmatch(r"model\.layers\.(\d+)\.mlp\.experts\.(\d+)\.(\w+)\.weight", name)
        if found:
            expert_weights(model, int(found[1]), int(found[2]))[found[3]].copy_(value)
        else:
            model.get_parameter(name).copy_(value)


@torch.no_grad()
def input_of(model, module, windows):
    """What a module reads, [tokens, channels]."""
    seen = []
    handle = module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].flatten(0, -2)))
    model(input_ids=windows, use_cache=False)
    handle.remove()
    return seen[0]


def tokens_of_experts(model, number, windows):
    """(expert, the rows that its layer sends to it), one by one; none of a dense block."""
    if experts_in(model, number) == 0:
        return
    router = router_of(model.model.layers[number])
    x = input_of(model, router, windows)
    chosen = router(x)[2]
    for expert in range(experts_in(model, number)):
        yield expert, x[(chosen == expert).any(1)]


# ---- what osp says of it -------------------------------------------------------------------------


def kurtosis(x):
    x = x.double()
    centred = x - x.mean(-1, keepdim=True)
    return (centred.pow(4).mean(-1) / centred.square().mean(-1).square() - 3).mean().item()


@torch.no_grad()
def assert_kurtosis_by_expert(report, model, windows):
    """The experts of `osp analyze --json` beside the model's own, of which it returns the number."""
    found = {(e["layer"], e["expert"]): e for e in report["experts"]}
    wanted = set()
    for layer in range(model.config.num_hidden_layers):
        for expert, rows in tokens_of_experts(model, layer, windows):
            place = layer, expert
            wanted.add(place)
            entry, product = found[place], expert_product(model, layer, expert, rows)
            assert abs(entry["tokens"] - len(rows)) <= 1, place  # a near tie
            assert entry["input_kurtosis"] == pytest.approx(kurtosis(rows), rel=1e-2, abs=1e-2), place
            assert entry["down_input_kurtosis"] == pytest.approx(kurtosis(product), rel=1e-2, abs=1e-2), place
    assert found.keys() == wanted
    return len(wanted)


def round_to_nearest(w):
    scale = oracle.row_scale(w, searched=True)
    return oracle.nearest(w, scale), scale


@torch.no_grad()
def quantized_by_oracle(model, windows):
    """Codes of every layer by GPTQ in fp64: every expert's by its own tokens, by rounding to nearest where
    an eighth of its inputs is more than those."""
    model = model.double()
    model.config._experts_implementation = "eager"  # the one that computes in fp64
    codes = {}

    def take(name, w, x):
        few = len(x) < max(1, w.shape[1] // 8) and ".experts." in name
        h = x.T @ x
        codes[name], scale = round_to_nearest(w) if few else oracle.gptq(w, h, 0 * h)
        put_weights(model, {name: codes[name].double() * scale.double()})

    for number, layer in enumerate(model.model.layers):
        block = f"model.layers.{number}."

        def linears(of, parts, block=block, layer=layer):
            """Layers of the block that read one input."""
            module = getattr(layer, of)
            x = input_of(model, getattr(module, parts[0]), windows)
            for part in parts:
                take(f"{block}{of}.{part}.weight", getattr(module, part).weight.clone(), x)

        linears("self_attn", ["q_proj", "k_proj", "v_proj"])
        linears("self_attn", ["o_proj"])
        if experts_in(model, number) == 0:
            linears("mlp", ["gate_proj", "up_proj"])
            linears("mlp", ["down_proj"])
        for expert, rows in tokens_of_experts(model, number, windows):
            original = {part: w.clone() for part, w in expert_weights(model, number, expert).items()}
            prefix = f"{block}mlp.experts.{expert}."
            for part in ("gate_proj", "up_proj"):
                take(prefix + part + ".weight", original[part], rows)
            product = expert_product(model, number, expert, rows)
            take(prefix + "down_proj.weight", original["down_proj"], product)
    return codes
