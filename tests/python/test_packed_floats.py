"""Folders of other programs with FP8, int8, MXFP4 and NVFP4 weights, whose activations and cache are rounded
there too: the numbers that the codes stand for, and what is refused."""

import json

import gpt_oss_cases
import pytest
import torch
from packed_cases import SIZES, assert_refused
from safetensors.torch import load_file, save_file
from small_tokenizers import letter_tokenizer
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, LlamaConfig, LlamaForCausalLM

E2M1 = torch.from_numpy(gpt_oss_cases.E2M1)
Q = "model.layers.1.self_attn.q_proj."
ACTIVATIONS = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": True, "strategy": "token"}


def spread(scale, shape, block):
    """A scale for each number, from one for each block of [rows, columns]."""
    rows, columns = block
    return scale.repeat_interleave(rows, 0)[: shape[0]].repeat_interleave(columns, 1)[:, : shape[1]]


def random_fp8(g, shape):
    codes = torch.randint(0, 256, shape, generator=g, dtype=torch.uint8)
    codes[codes % 128 == 127] = 3  # no NaN
    return codes.view(torch.float8_e4m3fn)


def random_scales(g, shape):
    return torch.rand(shape, generator=g) * 1e-3 + 1e-4


def blocks_of(shape, block):
    return [-(-size // part) for size, part in zip(shape, block, strict=True)]


def fp8(g, shape, block, name="weight_scale", dtype=torch.float32):
    codes, scale = random_fp8(g, shape), random_scales(g, blocks_of(shape, block)).to(dtype)
    return codes.float() * spread(scale.float(), shape, block), {"weight": codes, name: scale}


def int8(g, shape, block, zero=False):
    codes = torch.randint(-128, 128, shape, generator=g, dtype=torch.int8)
    scale = random_scales(g, blocks_of(shape, block))
    parts = {"weight": codes, "weight_scale": scale}
    values = codes.float()
    if zero:
        parts["weight_zero_point"] = torch.randint(-128, 128, scale.shape, generator=g, dtype=torch.int8)
        values = values - spread(parts["weight_zero_point"].float(), shape, block)
    return values * spread(scale, shape, block), parts


def nibbles(g, shape):
    codes = torch.randint(0, 16, shape, generator=g)
    return E2M1[codes], (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8)


def mxfp4(g, shape):
    values, packed = nibbles(g, shape)
    exponents = torch.randint(116, 124, (shape[0], shape[1] // 32), generator=g, dtype=torch.uint8)
    scale = spread(torch.exp2(exponents.float() - 127), shape, (1, 32))
    return values * scale, {"weight_packed": packed, "weight_scale": exponents}


def nvfp4(g, shape):
    values, packed = nibbles(g, shape)
    scale = (torch.rand((shape[0], shape[1] // 16), generator=g) * 400 + 1).to(torch.float8_e4m3fn)
    total = torch.tensor([3000.0])
    numbers = values * spread(scale.float() / total, shape, (1, 16))
    parts = {"weight_packed": packed, "weight_scale": scale, "weight_global_scale": total}
    return numbers.bfloat16().float(), parts


def scheme(format, weights, activations=None, **more):
    group = {"targets": ["Linear"], "weights": {"symmetric": True, "dynamic": False} | weights}
    if activations is not None:
        group["input_activations"] = activations
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    } | more


def floats(bits=8, **more):
    return {"num_bits": bits, "type": "float"} | more


FINE = {"quant_method": "fp8", "weight_block_size": [32, 32], "activation_scheme": "dynamic"}
KV = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False, "strategy": "tensor"}
CASES = {
    "fp8, tensor": (
        lambda g, s: fp8(g, s, s),
        scheme("float-quantized", floats(strategy="tensor")),
        "compressed-tensors, FP8, one scale per tensor",
    ),
    "fp8, channel, dynamic": (
        lambda g, s: fp8(g, s, (1, s[1])),
        scheme("float-quantized", floats(strategy="channel"), ACTIVATIONS),
        "compressed-tensors, FP8, one scale per row (activations, which it rounds too, are not rounded here)",
    ),
    "fp8, block": (
        lambda g, s: fp8(g, s, (32, 48)),
        scheme("float-quantized", floats(strategy="block", block_structure=[32, 48])),
        "compressed-tensors, FP8, blocks of 32 x 48",
    ),
    "fp8, scales of bf16": (
        lambda g, s: fp8(g, s, (1, s[1]), dtype=torch.bfloat16),
        scheme("naive-quantized", floats(strategy="channel")),
        "compressed-tensors, FP8, one scale per row",
    ),
    "fp8, cache": (
        lambda g, s: fp8(g, s, (1, s[1])),
        scheme("float-quantized", floats(strategy="channel"), ACTIVATIONS, kv_cache_scheme=KV),
        "compressed-tensors, FP8, one scale per row (activations and cache, which it rounds too, are not "
        "rounded here)",
    ),
    "fine-grained fp8": (
        lambda g, s: fp8(g, s, (32, 32), "weight_scale_inv"),
        FINE,
        "FP8, blocks of 32 x 32 (activations, which it rounds too, are not rounded here)",
    ),
    "int8, channel": (
        lambda g, s: int8(g, s, (1, s[1])),
        scheme("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}),
        "compressed-tensors, 8 bits, one scale per row",
    ),
    "int8, tensor": (
        lambda g, s: int8(g, s, s),
        scheme("int-quantized", {"num_bits": 8, "type": "int", "strategy": "tensor"}),
        "compressed-tensors, 8 bits, one scale per tensor",
    ),
    "int8, zero points": (
        lambda g, s: int8(g, s, (1, s[1]), zero=True),
        scheme("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False}),
        "compressed-tensors, 8 bits, one scale per row",
    ),
    "mxfp4": (
        mxfp4,
        scheme("mxfp4-pack-quantized", floats(4, strategy="group", group_size=32)),
        "compressed-tensors, MXFP4",
    ),
    "nvfp4": (
        nvfp4,
        scheme("nvfp4-pack-quantized", floats(4, strategy="tensor_group", group_size=16)),
        "compressed-tensors, NVFP4",
    ),
}


def write_folder(folder, name, changed_config=None, changed=None):
    """A Llama in the format; returns the numbers that its codes stand for."""
    make, config, _ = CASES[name]
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    g = torch.Generator().manual_seed(1)
    tensors, weights = {}, {}
    for key, weight in model.state_dict().items():
        if "proj" not in key:
            tensors[key] = weight
            continue
        weights[key], parts = make(g, tuple(weight.shape))
        tensors |= {key.removesuffix("weight") + ending: part for ending, part in parts.items()}
    if "cache" in name:
        for layer in range(SIZES["num_hidden_layers"]):
            for which in "kv":
                tensors[f"model.layers.{layer}.self_attn.{which}_scale"] = torch.tensor([0.5])
    for key, value in (changed or {}).items():
        if value is None:
            del tensors[key]
        else:
            tensors[key] = value(tensors[key]) if callable(value) else value
    folder.mkdir()
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    plain = json.loads(model.config.to_json_string()) | {"architectures": ["LlamaForCausalLM"]}
    plain["quantization_config"] = config | (changed_config or {})
    (folder / "config.json").write_text(json.dumps(plain))
    (folder / "tokenizer.json").write_text(json.dumps(letter_tokenizer()))
    return weights


def plain_of(run_program, folder, out):
    run_program(["osp", "export", folder, "--format", "hf", "--out", out])
    return load_file(out / "model.safetensors"), json.loads((out / "config.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_weights_are_the_numbers_that_the_codes_stand_for(name, run_program, tmp_path):
    wanted = write_folder(tmp_path / "model", name)
    found, config = plain_of(run_program, tmp_path / "model", tmp_path / "plain")
    for key, weight in wanted.items():
        assert torch.equal(found[key], weight), key
    assert config["osp_rounded_before"] == CASES[name][2]


# With scales in fp32: the package multiplies in the type of the scales, and a product in bf16 is rounded.
THEIRS = ["fp8, tensor", "fp8, channel, dynamic", "int8, channel", "int8, tensor", "int8, zero points",
          "mxfp4", "nvfp4"]  # fmt: skip


@pytest.mark.parametrize("name", THEIRS)
def test_compressed_tensors_unpacks_the_same_weights(name, run_program, tmp_path):
    write_folder(tmp_path / "model", name)
    ours, _ = plain_of(run_program, tmp_path / "model", tmp_path / "plain")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.float32, quantization_config=CompressedTensorsConfig(dequantize=True)
    )
    checked = 0
    for key, weight in theirs.named_parameters():
        if "proj" in key:
            assert torch.equal(ours[key], weight.float()), key
            checked += 1
    assert checked == 14


def with_nan(codes, place):
    """FP8 numbers of which one is NaN."""
    changed = codes.view(torch.uint8).clone()
    changed[place] = 127
    return changed.view(torch.float8_e4m3fn)


def put(value, place=(1, 1)):
    def change(tensor):
        tensor = tensor.clone()
        tensor[place] = value
        return tensor

    return change


DAMAGE = {
    "a code that is NaN": (
        "fp8, tensor",
        {},
        {Q + "weight": lambda codes: with_nan(codes, (2, 5))},
        "weight holds NaN at element 133, expected finite weights",
    ),
    "a scale that is NaN": (
        "fp8, channel, dynamic",
        {},
        {Q + "weight_scale": put(float("nan"), 3)},
        "weight_scale holds nan",
    ),
    "scales beyond fp32": (
        "fp8, channel, dynamic",
        {},
        {Q + "weight_scale": put(3e38, 3)},
        "its scales make",
    ),
    "255 of E8M0": (
        "mxfp4",
        {},
        {Q + "weight_scale": put(255)},
        "weight_scale holds 255, the NaN of E8M0, at element 3",
    ),
    "NaN of an E4M3 scale": (
        "nvfp4",
        {},
        {Q + "weight_scale": lambda scales: with_nan(scales, (0, 0))},
        "weight_scale holds NaN at element 0",
    ),
    "a global scale of 0": (
        "nvfp4",
        {},
        {Q + "weight_global_scale": torch.zeros(1)},
        "weight_global_scale is 0, expected a positive number",
    ),
    "no global scale": ("nvfp4", {}, {Q + "weight_global_scale": None}, "weight_global_scale is missing"),
    "no scale": ("fp8, tensor", {}, {Q + "weight_scale": None}, Q + "weight_scale is missing"),
    "scales of other blocks": (
        "fp8, block",
        {"config_groups": scheme("", floats(strategy="block", block_structure=[16, 48]))["config_groups"]},
        {},
        "weight_scale is F32 [2, 2], expected F32 [4, 2]",
    ),
    "blocks of MXFP4 of another size": (
        "mxfp4",
        {"config_groups": scheme("", floats(4, strategy="group", group_size=16))["config_groups"]},
        {},
        "weights has groups of 16, expected 32 of mxfp4-pack-quantized",
    ),
    "integers in a format of floats": (
        "fp8, tensor",
        {"config_groups": scheme("", {"num_bits": 8, "type": "int", "strategy": "tensor"})["config_groups"]},
        {},
        'format is "float-quantized" and weights.type "int"; the two contradict each other',
    ),
    "int8 where the configuration says FP8": (
        "fp8, tensor",
        {},
        {Q + "weight": lambda w: w.view(torch.int8)},
        "weight is I8 [64, 64], expected F8_E4M3 [64, 64]",
    ),
    "plain weights where the configuration says FP8": (
        "fp8, tensor",
        {},
        {Q + "weight": lambda w: w.float()},
        'q_proj.weight_scale" belongs to no part of the model',
    ),
    "block sizes of text": (
        "fine-grained fp8",
        {"weight_block_size": ["a", 32]},
        {},
        'weight_block_size is ["a",32], expected two sizes',
    ),
    "sparse": ("fp8, tensor", {"sparsity_config": {"format": "sparse-24"}}, {}, "sparsity_config is given"),
    "cache scales without a scheme": (
        "fp8, tensor",
        {},
        {"model.layers.0.self_attn.k_scale": torch.ones(1)},
        "belongs to no part of the model",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_contradicts_itself_or_is_no_number_is_refused_by_name(case, run_program, tmp_path):
    name, config, parts, reason = DAMAGE[case]
    write_folder(tmp_path / "model", name, config, parts)
    assert_refused(run_program, tmp_path, reason)


def test_integers_of_one_byte_are_exported_as_codes_and_floats_are_refused(run_program, tmp_path):
    wanted = write_folder(tmp_path / "int8", "int8, channel")
    run_program(["osp", "export", tmp_path / "int8", "--format", "gptq", "--out", tmp_path / "gptq"])
    scales = load_file(tmp_path / "int8" / "model.safetensors")[Q + "weight_scale"]
    found, _ = plain_of(run_program, tmp_path / "gptq", tmp_path / "back")
    # Codes as they are, on scales in fp16.
    codes = wanted[Q + "weight"] / scales
    assert torch.equal(found[Q + "weight"], codes.round() * scales.half().float())
    write_folder(tmp_path / "fp8", "fp8, tensor")
    for target in ("gptq", "awq", "compressed-tensors"):
        command = ["osp", "export", tmp_path / "fp8", "--format", target, "--out", tmp_path / f"fp8-{target}"]
        result = run_program(command, check=False)
        reason = "its codes are no integers with a scale for columns of a row (compressed-tensors, FP8"
        assert result.returncode == 3 and reason in result.stderr, result.stderr
