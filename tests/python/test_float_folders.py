"""Folders of MXFP4, NVFP4 and FP8 weights: in compressed-tensors and transformers, read back by osp, and
damaged in every way that their layouts allow."""

import json
import shutil

import pytest
import torch
from reference_llama import Shape, random_weights, write_model_dir
from safetensors.torch import load_file, save_file
from small_tokenizers import letter_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, CompressedTensorsConfig

pytest.importorskip("compressed_tensors")
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from compressed_tensors.quantization.quant_scheme import MXFP4, NVFP4
from compressed_tensors.quantization.utils.helpers import calculate_qparams, generate_gparam

SHAPE = Shape(width=64, heads=4, kv_heads=2, head_size=32, inner=128, layers=2, context=32)
SAME = 1e-5  # of the largest logit: fp32 sums in another order
SCHEMES = {"mxfp4": MXFP4, "nvfp4": NVFP4}
LAYOUTS = {"mxfp4": "mxfp4-pack-quantized", "nvfp4": "nvfp4-pack-quantized", "fp8": "float-quantized"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A small Llama with a letter alphabet, and text of it."""
    folder = tmp_path_factory.mktemp("source")
    weights = random_weights(SHAPE)
    for name in weights:  # blocks of very different sizes
        if "proj" in name:
            weights[name][:, 16:32] *= 4
            weights[name][3] *= 1e-3
    write_model_dir(folder / "model", SHAPE, weights)
    (folder / "model" / "tokenizer.json").write_text(json.dumps(letter_tokenizer(), ensure_ascii=False))
    ids = torch.randint(0, 94, (4000,), generator=torch.Generator().manual_seed(2)).tolist()
    (folder / "text.txt").write_text("".join(chr(33 + i) for i in ids))
    return folder


@pytest.fixture(scope="module")
def quantize(run_program, source):
    """Makes a folder once for each choice of options."""

    def run(bits, *options):
        out = source / "-".join([bits, *(str(o).strip("-") for o in options)])
        if not out.exists():
            run_program(["osp", "quantize", source / "model", "--calibration", source / "text.txt",
                         "--windows", 8, "--calibration-type", "fp32", "--out", out, "--quiet",
                         "--bits", bits, *options])  # fmt: skip
        return out

    return run


def some_tokens(rows=20, length=8):
    return torch.randint(2, 94, (rows, length), generator=torch.Generator().manual_seed(3))


def distance(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def weights_of(model):
    return {
        name: module.weight.detach().float()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name
    }


def unpacked(folder, dtype=torch.float32):
    """The model as transformers loads it, its weights unpacked by compressed-tensors and then in `dtype`
    (four-bit ones become bf16 numbers)."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.hf_quantizer.compressor.decompress_model(model)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = module.weight.data.to(dtype)
    return model


def logits_of(model, tokens):
    with torch.no_grad():
        return model(tokens).logits.float()


def plain_weights(run_program, folder, out):
    """What `osp export --format hf` makes of a quantized folder."""
    run_program(["osp", "export", folder, "--format", "hf", "--dtype", "fp32", "--out", out, "--quiet"])
    return load_file(out / "model.safetensors")


METHODS = [
    ("rtn",),
    ("rtn", "--weight-scales", "mse"),
    ("gptq",),
    ("gptq", "--profile", "best"),
    ("awq",),
    ("qronos",),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: "-".join(m))
@pytest.mark.parametrize("kind", LAYOUTS)
def test_transformers_unpacks_the_folder_to_our_weights_and_logits(
    kind, method, quantize, osp_logits, run_program, tmp_path
):
    folder, tokens = quantize(f"{kind}-16-16", "--method", *method), some_tokens()
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert config["format"] == LAYOUTS[kind]
    model = unpacked(folder)
    found, ours = weights_of(model), plain_weights(run_program, folder, tmp_path / "hf")
    assert len(found) == 14
    for name, weight in found.items():
        assert torch.equal(weight, ours[name + ".weight"]), name
    wanted = osp_logits(folder, tokens)
    assert distance(logits_of(model, tokens), wanted) < SAME
    # Unpacked while loading, which is how the model is trained further or stored.
    loaded = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=CompressedTensorsConfig(dequantize=True)
    )
    assert distance(logits_of(loaded, tokens), wanted) < SAME


@pytest.mark.parametrize("kind", LAYOUTS)
def test_transformers_runs_the_folder_without_any_option(kind, quantize, osp_logits):
    """In the type that config.json says; compressed-tensors unpacks in the first pass."""
    folder, tokens = quantize(f"{kind}-16-16", "--method", "rtn"), some_tokens()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == (torch.float32 if kind == "fp8" else torch.bfloat16)
    found, wanted = logits_of(model, tokens), osp_logits(folder, tokens)
    assert (found - wanted).norm() < 0.05 * wanted.norm()  # bf16 activations, of whatever weights
    for name, weight in weights_of(unpacked(folder)).items():
        assert torch.equal(dict(model.named_modules())[name].weight.float(), weight), name


def joined_constant(name, weights):
    """The global scale of NVFP4 that llm-compressor gives to layers that vLLM joins: the smallest."""
    joined = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
    own = next(part for part in name.split(".") if part.endswith("_proj"))
    with_it = next((parts for parts in joined if own in parts), (own,))
    scales = [generate_gparam(w.min(), w.max()) for w in (weights[name.replace(own, p)] for p in with_it)]
    return torch.stack(scales).amin(0)


@pytest.mark.parametrize("kind", SCHEMES)
def test_rounding_to_nearest_stores_the_bytes_that_compressed_tensors_would(kind, quantize, source):
    weights = load_file(source / "model" / "model.safetensors")
    tensors = load_file(quantize(f"{kind}-16-16", "--method", "rtn") / "model.safetensors")
    compressor = BaseCompressor.get_value_from_registry(LAYOUTS[kind])
    scheme = QuantizationScheme(targets=["Linear"], **SCHEMES[kind])
    names = [n.removesuffix("_packed") for n in tensors if n.endswith("_packed")]
    assert len(names) == 14
    for name in names:
        w = weights[name]
        blocks = w.unflatten(-1, (-1, scheme.weights.group_size))
        overall = joined_constant(name, weights) if kind == "nvfp4" else None
        scale, _ = calculate_qparams(blocks.amin(-1), blocks.amax(-1), scheme.weights, global_scale=overall)
        state = {"weight": w, "weight_scale": scale}
        if overall is not None:
            state["weight_global_scale"] = overall
        wanted = {key: x for key, x in compressor.compress(state, scheme).items() if x is not None}
        found = {"weight" + n.removeprefix(name): x for n, x in tensors.items() if n.startswith(name + "_")}
        assert found.keys() == wanted.keys()
        for key, tensor in wanted.items():
            assert found[key].dtype == tensor.dtype and found[key].shape == tensor.shape, (name, key)
            assert torch.equal(found[key].view(torch.uint8), tensor.contiguous().view(torch.uint8)), (
                name,
                key,
            )


ACTIVATIONS = [
    ("mxfp4-mxfp4-16",),
    ("nvfp4-nvfp4-16", "--activation-scales", "per-tensor"),
    ("fp8-fp8-16",),
    ("fp8-fp8-16", "--activation-scales", "per-tensor"),
    ("mxfp4-fp8-16",),
    ("4-mxfp4-16", "--group", 32),
    ("nvfp4-8-16",),
    ("mxfp4-16-fp8",),
    ("fp8-fp8-fp8",),
    ("4-16-mxfp4",),
]


@pytest.mark.parametrize("options", ACTIVATIONS, ids=lambda o: "-".join(map(str, o)))
def test_compressed_tensors_rounds_activations_and_cache_as_we_do(options, quantize, osp_logits):
    folder, tokens = quantize(*options, "--method", "rtn"), some_tokens(rows=40, length=4)
    found, wanted = logits_of(unpacked(folder), tokens), osp_logits(folder, tokens)
    # A number within fp32's rounding of the edge between two may get the other one, which moves the logits
    # of its row: nine rows of ten must be equal.
    rows = (found - wanted).abs().amax((1, 2)) / wanted.abs().amax((1, 2))
    assert (rows < SAME).float().mean() >= 0.9, rows
    bits = options[0].split("-")
    plain = osp_logits(quantize(f"{bits[0]}-16-16", *options[1:1], "--method", "rtn"), tokens)
    assert distance(plain, wanted) > 100 * SAME  # the rounding is there


@pytest.mark.parametrize(
    "bits, reason",
    [
        ("nvfp4-nvfp4-16", "with --activation-scales per-tensor"),
        ("nvfp4-16-nvfp4", "every key and value has an NVFP4 scale"),
        ("mxfp4-16-4", "turned by a Hadamard matrix"),
    ],
)
def test_what_others_would_compute_differently_is_hidden_from_them(bits, reason, quantize):
    folder = quantize(bits, "--method", "rtn")
    with pytest.raises(ValueError, match="osp_quantized"):
        AutoModelForCausalLM.from_pretrained(folder)
    assert reason in json.loads((folder / "config.json").read_text())["osp_quantization"]["osp_alone"]


ALL = [
    ("mxfp4-mxfp4-mxfp4", "rtn"),
    ("nvfp4-nvfp4-fp8", "gptq"),
    ("nvfp4-nvfp4-nvfp4", "quarot+rtn"),
    ("fp8-fp8-fp8", "smoothquant+rtn"),
    ("mxfp4-mxfp4-16", "ffn-hadamard+gptq", "--hadamard-block", 32),
]


@pytest.mark.parametrize("bits, method, options", [(b, m, o) for b, m, *o in ALL], ids=lambda x: str(x))
def test_every_command_reads_the_folder_back(
    bits, method, options, quantize, source, run_program, osp_logits, tmp_path
):
    folder = quantize(bits, "--method", method, *options)
    words = ["osp", "generate", folder, "--prompt", "#Hello&world", "--max-tokens", 6, "--json"]
    report = json.loads(run_program(words).stdout)
    assert len(report["tokens"]) == 6
    ids = torch.tensor([report["prompt_tokens"] + report["tokens"]])
    logits = osp_logits(folder, ids)
    for step, token in enumerate(report["tokens"]):  # one pass, so nearly the largest
        row = logits[0, len(report["prompt_tokens"]) - 1 + step, :96]
        assert row[token] >= row.max() - 0.02 * row.abs().max(), step
    refused = run_program([*words, "--engine", "integer"], check=False)
    assert refused.returncode == 3 and "the engine computes with integers" in refused.stderr
    evaluate = ["osp", "eval", folder, "--data", source / "text.txt", "--json"]
    result = run_program(evaluate)
    assert "simulated in floating point (its weights are" in result.stderr
    assert json.loads(result.stdout)["results"][0]["bits"] == bits
    hf = tmp_path / "hf"
    run_program(["osp", "export", folder, "--format", "hf", "--out", hf, "--quiet"])
    if bits.endswith("-16-16"):
        assert distance(osp_logits(hf, ids), logits) < SAME
    for layout in ("gptq", "panels"):
        result = run_program(
            ["osp", "export", folder, "--format", layout, "--out", tmp_path / layout], check=False
        )
        assert result.returncode == 3, result.stderr
        assert "numbers" in result.stderr or "Hadamard" in result.stderr, result.stderr
    result = run_program(
        ["osp", "export", folder, "--format", "gguf", "--out", tmp_path / "m.gguf"], check=False
    )
    if "Hadamard" in result.stderr:
        assert result.returncode == 3 and method in ("quarot+rtn", "ffn-hadamard+gptq")
    elif bits.startswith("mxfp4"):  # GGUF has these blocks; test_gguf_types.py reads them back
        assert result.returncode == 0, result.stderr
    else:
        assert result.returncode == 3 and "no type of GGUF holds" in result.stderr, result.stderr


@pytest.mark.parametrize("bits", ["mxfp4-16-16", "nvfp4-nvfp4-16", "fp8-fp8-fp8", "mxfp4-mxfp4-mxfp4"])
def test_eval_with_bits_measures_what_the_folder_of_rtn_does(bits, quantize, source, run_program):
    def perplexity(model, *options):
        words = ["osp", "eval", model, "--data", source / "text.txt", "--json", *options]
        return json.loads(run_program(words).stdout)["results"][0]["perplexity"]

    plain = perplexity(source / "model")
    found = perplexity(source / "model", "--bits", bits)
    assert found == perplexity(quantize(bits, "--method", "rtn", "--tables", "fp32"))
    assert found != plain


REFUSED = [
    (["--bits", "mxfp4-16-16", "--method", "awq", "--weight-scales", "mse"], "awq clips the weights itself"),
    (["--bits", "nvfp4-16-16", "--group", 32], "a scale of nvfp4 belongs to 16 columns"),
    (["--bits", "fp8-16-16", "--group", 32], "one scale per output channel"),
    (["--bits", "mxfp4-16-16", "--asymmetric"], "have no zero point"),
    (["--bits", "4-nvfp4-16", "--activation-clip", 0.9], "leave out --activation-clip"),
    (["--bits", "4-16-fp8", "--cache-clip", 0.9], "leave out --cache-clip"),
    (["--bits", "4-mxfp4-16", "--activation-group", 32], "says which numbers share a scale"),
    (["--bits", "4-mxfp4-16", "--activation-scales", "per-tensor"], "no constant of a tensor"),
    (["--bits", "4-fp8-16", "--activation-scales", "after-norm"], "integers of a Gaussian"),
    (["--bits", "nvfp4-16-16", "--method", "spinquant"], "learns its rotations for integer grids"),
    (["--bits", "fp4-16-16"], "mxfp4, nvfp4 or fp8"),
    (["--bits", "nvfp4x-16-16"], "mxfp4, nvfp4 or fp8"),
]


@pytest.mark.parametrize(
    "options, part", REFUSED, ids=lambda o: "-".join(map(str, o)) if isinstance(o, list) else ""
)
def test_options_that_a_format_does_not_have_are_refused_before_any_work(
    options, part, source, run_program, tmp_path
):
    method = [] if "--method" in options else ["--method", "rtn"]
    result = run_program(["osp", "quantize", source / "model", "--calibration", source / "text.txt", "--out",
                          tmp_path / "q", *method, *options], check=False)  # fmt: skip
    assert result.returncode == 2 and part in result.stderr, result.stderr
    assert "quantizing" not in result.stderr and not (tmp_path / "q").exists()


def test_blocks_that_do_not_divide_are_refused(tmp_path, source, run_program):
    shape = Shape(width=48, heads=3, kv_heads=3, head_size=16, inner=128, layers=1, context=32)
    write_model_dir(tmp_path / "m", shape, random_weights(shape))
    shutil.copy(source / "model" / "tokenizer.json", tmp_path / "m")
    for command in (
        ["quantize", tmp_path / "m", "--method", "rtn", "--out", tmp_path / "q"],
        ["eval", tmp_path / "m", "--data", source / "text.txt"],
    ):
        for bits, part in (
            ("mxfp4-16-16", "blocks of 32 (mxfp4) do not divide the width 48"),
            ("4-mxfp4-16", "blocks of 32 (mxfp4) do not divide the width 48"),
            ("4-16-mxfp4", "blocks of 32 (mxfp4) do not divide the head size 16"),
        ):
            result = run_program(["osp", *command, "--bits", bits], check=False)
            assert result.returncode == 2 and part in result.stderr, result.stderr


JOINED = {
    "gpt_neox": {"num_attention_heads": 4, "vocab_size": 96},
    "phi3": {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96, "pad_token_id": 0},
}


@pytest.mark.parametrize("bits", ["nvfp4-16-16", "mxfp4-16-16"])
@pytest.mark.parametrize("family", JOINED)
def test_layers_that_a_file_joins_have_one_constant(family, bits, tmp_path, run_program, osp_logits):
    """q, k, v (and gate, up) are one tensor with one global scale in the files of these families."""
    config = AutoConfig.for_model(family, hidden_size=64, num_hidden_layers=2, intermediate_size=128,
                                  max_position_embeddings=32, bos_token_id=None, eos_token_id=None,
                                  **JOINED[family])  # fmt: skip
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_config(config)
    for name, weight in model.named_parameters():
        if "query_key_value" in name or "qkv_proj" in name:
            weight.data[:16] *= 7  # queries are larger than keys and values
    model.save_pretrained(tmp_path / "model")
    out, tokens = tmp_path / "out", some_tokens()
    run_program(["osp", "quantize", tmp_path / "model", "--method", "rtn", "--out", out, "--bits", bits])
    wanted = osp_logits(out, tokens)
    assert distance(logits_of(unpacked(out), tokens), wanted) < SAME
    assert distance(logits_of(model, tokens), wanted) > 100 * SAME


def test_a_weight_that_no_format_holds_is_refused(tmp_path, run_program):
    for value, kind, part in (
        (float("nan"), "nvfp4", "expected finite weights"),
        (float("inf"), "mxfp4", "expected finite weights"),
        (3.2e38, "mxfp4", "beyond the scales of mxfp4"),
    ):
        weights = random_weights(SHAPE)
        weights["model.layers.1.mlp.up_proj.weight"][5, 7] = value
        folder = tmp_path / f"{kind}{value}"
        write_model_dir(folder, SHAPE, weights)
        words = ["osp", "quantize", folder, "--method", "rtn", "--bits", f"{kind}-16-16"]
        result = run_program([*words, "--out", tmp_path / "q"], check=False)
        assert result.returncode == 3 and part in result.stderr, result.stderr
        assert "layers.1.mlp.up_proj" in result.stderr


LAYER = "model.layers.1.mlp.up_proj.weight"


def scale_byte(value):
    def change(tensors):
        tensors[LAYER + "_scale"].view(torch.uint8)[3, 1] = value

    return change


def replace(ending, tensor):
    def change(tensors):
        tensors[LAYER + ending] = tensor

    return change


def remove(ending):
    return lambda tensors: tensors.pop(LAYER + ending)


def say(path, value):
    """Changes one entry of config.json."""

    def change(config):
        *way, last = path.split("/")
        for key in way:
            config = config[key]
        if value is None:
            del config[last]
        else:
            config[last] = value

    return change


SCHEME = "quantization_config/config_groups/group_2/weights"
# (kind, what is done to the tensors or to config.json, what the message says)
DAMAGED = [
    ("mxfp4", scale_byte(255), "NaN (code 255 of E8M0)"),
    ("nvfp4", scale_byte(0x7F), "NaN (E4M3 has no infinity)"),
    ("nvfp4", scale_byte(0xFF), "NaN (E4M3 has no infinity)"),
    ("nvfp4", scale_byte(0), "scales must be positive"),
    ("nvfp4", scale_byte(0x80 | 0x38), "scales must be positive"),
    ("nvfp4", replace("_global_scale", torch.tensor([float("nan")])), "must be positive and finite"),
    ("nvfp4", replace("_global_scale", torch.tensor([0.0])), "the global scale must be positive and finite"),
    ("nvfp4", replace("_global_scale", torch.tensor([-3.0])), "must be positive and finite"),
    ("nvfp4", replace("_global_scale", torch.tensor([1e-38])), "beyond fp32"),
    ("nvfp4", replace("_global_scale", torch.ones(2)), "F32 [2], expected F32 [1]"),
    ("nvfp4", replace("_global_scale", torch.ones(1).half()), "F16 [1], expected F32 [1]"),
    ("nvfp4", remove("_global_scale"), "weight_global_scale is missing"),
    ("nvfp4", remove("_scale"), "weight_scale is missing"),
    ("nvfp4", remove("_packed"), "up_proj.weight is missing"),
    ("mxfp4", remove("_scale"), "weight_scale is missing"),
    ("nvfp4", replace("_scale", torch.ones(128, 2).to(torch.float8_e4m3fn)), "F8_E4M3 [128, 2], expected"),
    ("nvfp4", replace("_scale", torch.ones(128, 4)), "F32 [128, 4], expected F8_E4M3 [128, 4]"),
    ("mxfp4", replace("_scale", torch.ones(128, 2)), "F32 [128, 2], expected U8 [128, 2]"),
    ("mxfp4", replace("_packed", torch.zeros(128, 31).byte()), "U8 [128, 31], expected U8 [128, 32]"),
    ("mxfp4", replace("_packed", torch.zeros(128, 32).char()), "I8 [128, 32], expected U8"),
    ("fp8", scale_byte(255), "a scale is not finite"),
    ("fp8", replace("", torch.full((128, 64), float("nan")).to(torch.float8_e4m3fn)), "a code is NaN"),
    ("fp8", replace("", torch.ones(128, 64).to(torch.float8_e5m2)), "F8_E5M2"),
    ("fp8", remove("_scale"), "weight_scale is missing"),
    ("nvfp4", say("quantization_config", None), "no key quantization_config"),
    ("nvfp4", say("quantization_config/format", "mxfp4-pack-quantized"), "quantization_config.format is"),
    ("nvfp4", say(SCHEME + "/group_size", 32), "group_2.weights.group_size is 32, expected 16"),
    ("mxfp4", say(SCHEME + "/scale_dtype", "torch.float8_e4m3fn"), "scale_dtype is"),
    ("mxfp4", say(SCHEME + "/type", None), "group_2.weights.type is missing"),
    ("mxfp4", say(SCHEME, 4), "group_2.weights is 4, expected an object"),
    ("mxfp4", say("quantization_config", []), "is [], expected an object"),
    ("nvfp4", say("osp_quantization/bits", "mxfp4-16-16"), "groups of 16 with mxfp4 weights"),
    ("nvfp4", say("osp_quantization/bits", "4-16-16"), ""),
    ("nvfp4", say("osp_quantization/group", 32), "groups of 32 with nvfp4 weights"),
    ("nvfp4", say("osp_quantization/symmetric", False), "zero points with nvfp4 weights"),
    ("mxfp4", say("osp_quantization/version", 5), "version 5, this osp reads 1 to 4"),
    ("mxfp4", say("hidden_size", 48), "do not divide the width 48"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(DAMAGED)), ids=lambda i: f"{DAMAGED[i][0]}-{DAMAGED[i][2][:40]}")
def test_a_damaged_folder_is_refused_with_the_reason(case, quantize, run_program, tmp_path):
    kind, change, part = DAMAGED[case]
    folder = tmp_path / "q"
    shutil.copytree(quantize(f"{kind}-16-16", "--method", "rtn"), folder)
    tensors = {n: x.clone() for n, x in load_file(folder / "model.safetensors").items()}
    config = json.loads((folder / "config.json").read_text())
    if change.__qualname__.startswith("say"):
        change(config)
    elif part == "a scale is not finite":
        tensors[LAYER + "_scale"][3] = float("inf")
    else:
        change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    for command in (["generate", folder, "--prompt", "abc", "--max-tokens", 1], ["export", folder, "--format",
                    "hf", "--out", tmp_path / "hf"]):  # fmt: skip
        result = run_program(["osp", *command], check=False)
        assert result.returncode == 3 and part in result.stderr, result.stderr
        assert str(folder) in result.stderr


def test_the_outlier_tax_and_the_table_of_methods_take_floating_point_formats(source, run_program):
    words = ["--data", source / "text.txt", "--data-tokens", 300]
    result = run_program(["osp", "eval", source / "model", "--bits", "nvfp4-nvfp4-16", "--tax", *words])
    assert "nvfp4-nvfp4-16: outlier tax" in result.stdout
    result = run_program(["osp", "analyze", source / "model", "--cost-bits", "nvfp4-4-4", "--data",
                          source / "text.txt"], check=False)  # fmt: skip
    assert result.returncode == 2 and "osp eval --tax" in result.stderr


def test_a_cache_in_blocks_of_other_channels_is_said_to_run_here_alone(run_program, tmp_path):
    """ERNIE 4.5 turns neighbouring channels; osp keeps them apart, so blocks of 32 of 64 differ."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=128, num_attention_heads=2, num_key_value_heads=1, head_dim=64)
    sizes |= dict(intermediate_size=96, num_hidden_layers=1, vocab_size=96, max_position_embeddings=32)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("ernie4_5", **sizes))
    model.save_pretrained(tmp_path / "model")
    for cache, reason in (("mxfp4", "stand in another order elsewhere"), ("fp8", None)):
        out = tmp_path / cache
        run_program(["osp", "quantize", tmp_path / "model", "--method", "rtn", "--bits", f"4-16-{cache}",
                     "--out", out])  # fmt: skip
        config = json.loads((out / "config.json").read_text())
        if reason:
            assert reason in config["osp_quantization"]["osp_alone"]
            assert config["architectures"] == ["OspQuantizedForCausalLM"]
        else:
            assert config["architectures"] == ["Ernie4_5ForCausalLM"]
