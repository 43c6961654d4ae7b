"""Quantized folders in every command and in transformers: either the same logits, or a refusal."""

import json
import subprocess

import pytest
import torch
from reference_llama import Shape, random_weights, write_model_dir
from safetensors.torch import load_file
from small_tokenizers import letter_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

SHAPE = Shape(width=64, heads=4, kv_heads=2, head_size=16, inner=128, layers=2, context=32)
SAME = 1e-5  # of the largest logit: fp32 sums in another order
MIXED = dict(hidden_size=64, num_attention_heads=4, num_hidden_layers=2, vocab_size=96,
             max_position_embeddings=32, bos_token_id=None, eos_token_id=None)  # fmt: skip
GROUPED = dict(MIXED, num_key_value_heads=2, intermediate_size=128, pad_token_id=1)
FAMILIES = {
    "gpt_neox": dict(MIXED, intermediate_size=128),
    "opt": dict(MIXED, ffn_dim=128, word_embed_proj_dim=64, pad_token_id=1),
    "stablelm": dict(MIXED, num_key_value_heads=2, intermediate_size=128),
    "qwen3": dict(MIXED, num_key_value_heads=2, intermediate_size=128, head_dim=16),
    "smollm3": dict(
        MIXED, num_key_value_heads=2, intermediate_size=128, no_rope_layers=[1, 0], pad_token_id=1
    ),
    "olmo2": dict(MIXED, num_key_value_heads=2, intermediate_size=128, pad_token_id=1),
    "seed_oss": dict(GROUPED, head_dim=16),
    "arcee": GROUPED,
    "ernie4_5": dict(GROUPED, head_dim=16),
    "ministral": dict(
        GROUPED, head_dim=16, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    ),
    "ministral3": dict(GROUPED, head_dim=16),
    "phi3": GROUPED,
    "granite": dict(
        GROUPED,
        embedding_multiplier=3.0,
        residual_multiplier=0.3,
        attention_multiplier=0.1,
        logits_scaling=2.0,
    ),
    "olmo3": dict(GROUPED, sliding_window=8),
    "gemma2": dict(GROUPED, head_dim=16, sliding_window=8),
    "gemma3_text": dict(GROUPED, head_dim=16, sliding_window=8),
    "glm4": dict(GROUPED, head_dim=16),
    "nemotron": GROUPED,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A small Llama with a letter alphabet, and text of it."""
    folder = tmp_path_factory.mktemp("source")
    write_model_dir(folder / "model", SHAPE, random_weights(SHAPE))
    (folder / "model" / "tokenizer.json").write_text(json.dumps(letter_tokenizer(), ensure_ascii=False))
    ids = torch.randint(0, 94, (4000,), generator=torch.Generator().manual_seed(2)).tolist()
    (folder / "text.txt").write_text("".join(chr(33 + i) for i in ids))
    return folder


@pytest.fixture(scope="module")
def quantize(run_program, source):
    """Makes a folder once for each choice of options."""

    def run(*options):
        out = source / "-".join(str(o).strip("-") for o in options)
        if not out.exists():
            run_program(["osp", "quantize", source / "model", "--calibration", source / "text.txt",
                         "--windows", 8, "--out", out, "--quiet", *options])  # fmt: skip
        return out

    return run


def some_tokens(rows=2, length=29):
    return torch.randint(2, 94, (rows, length), generator=torch.Generator().manual_seed(3))


def distance(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def check_same(found, wanted, rounded):
    """Equal logits. An activation within fp32's rounding of the edge between two codes may get the other
    code, which moves the logits of its row: with rounded activations eight rows of ten must be equal."""
    rows = (found - wanted).abs().amax((1, 2)) / wanted.abs().amax((1, 2))
    assert (rows < SAME).float().mean() >= (0.8 if rounded else 1.0), rows


def transformers_logits(folder, tokens, cls=AutoModelForCausalLM):
    with torch.no_grad():
        return cls.from_pretrained(folder, dtype=torch.float32)(tokens).logits


LOADABLE = [
    ("--bits", "4-16-16", "--profile", "best"),
    ("--bits", "4-16-16", "--asymmetric"),
    ("--bits", "3-16-16", "--asymmetric", "--group", 32),
    ("--bits", "8-16-16", "--asymmetric", "--group", 16, "--profile", "best"),
    ("--bits", "4-4-16"),
    ("--bits", "4-4-16", "--asymmetric", "--group", 32),
    ("--bits", "4-8-16", "--activation-scales", "per-tensor"),
    ("--bits", "4-4-16", "--down-group", 32),
    ("--bits", "4-4-16", "--activation-group", 16),
    ("--bits", "3-8-16", "--group", 32, "--method", "smoothquant+rtn"),
]


@pytest.mark.parametrize("options", LOADABLE, ids=lambda o: "-".join(map(str, o)))
def test_a_folder_that_transformers_loads_has_our_logits_there(options, quantize, osp_logits):
    folder, tokens = quantize(*options), some_tokens(rows=40, length=4)
    wanted = osp_logits(folder, tokens)
    rounded = "16-16" not in options[1]
    check_same(transformers_logits(folder, tokens), wanted, rounded)
    check_same(transformers_logits(folder, tokens, LlamaForCausalLM), wanted, rounded)


OSP_ALONE = [
    (("--bits", "4-16-16", "--method", "quarot+rtn"), "down projections need a Hadamard transform"),
    (("--bits", "4-16-16", "--method", "ffn-hadamard+rtn", "--hadamard-block", 16), "down projections"),
    (("--bits", "4-4-4", "--method", "rtn"), "turned by a Hadamard matrix before the keys"),
    (("--bits", "4-16-8", "--method", "rtn"), "turned by a Hadamard matrix before the keys"),
    (("--bits", "4-4-16", "--method", "rtn", "--activation-clip", 0.9), "a part of the range"),
    (("--bits", "4-4-16", "--method", "rtn", "--mean-offset", "residual"), "offsets are subtracted"),
]


@pytest.mark.parametrize("options, reason", OSP_ALONE, ids=lambda o: "-".join(map(str, o)))
def test_a_folder_that_others_would_compute_differently_is_refused_by_them(options, reason, quantize):
    folder = quantize(*options)
    for load in (AutoConfig, AutoModelForCausalLM):
        with pytest.raises(ValueError, match="osp_quantized"):
            load.from_pretrained(folder)
    with pytest.raises(ValueError, match="this folder runs in osp alone"):  # of compressed-tensors
        LlamaForCausalLM.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert reason in config["osp_quantization"]["osp_alone"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_quantized_folder_of_every_family_has_our_logits_in_transformers(
    family, tmp_path, run_program, source, osp_logits
):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FAMILIES[family]))
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text((source / "model" / "tokenizer.json").read_text())
    tokens = some_tokens(rows=40, length=4)
    for bits in ("4-16-16", "4-4-16"):
        run_program(["osp", "quantize", tmp_path / "model", "--calibration", source / "text.txt", "--windows",
                     4, "--out", tmp_path / bits, "--quiet", "--bits", bits])  # fmt: skip
        found = transformers_logits(tmp_path / bits, tokens)
        check_same(found, osp_logits(tmp_path / bits, tokens), bits == "4-4-16")
        out = tmp_path / f"plain-{bits}"
        run_program(["osp", "export", tmp_path / bits, "--format", "hf", "--out", out])
    plain = transformers_logits(tmp_path / "plain-4-16-16", tokens)
    assert distance(plain, osp_logits(tmp_path / "4-16-16", tokens)) < SAME


@pytest.mark.parametrize("tables", ["bf16", "fp32"])
def test_tables_of_16_bits_are_those_that_transformers_computes_with(tables, source, quantize, osp_logits):
    folder, tokens = quantize("--bits", "4-16-16", "--tables", tables), some_tokens()
    stored = load_file(folder / "model.safetensors")
    original = load_file(source / "model" / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        wanted = original[name].to(torch.bfloat16) if tables == "bf16" else original[name]
        assert torch.equal(stored[name], wanted), name
    assert stored["model.norm.weight"].dtype == torch.float32
    check_same(transformers_logits(folder, tokens), osp_logits(folder, tokens), False)


@pytest.mark.parametrize("tables", ["int8", "int4"])
def test_integer_tables_are_run_by_osp_and_refused_by_transformers(
    tables, source, quantize, osp_logits, run_program
):
    rounded = ("--bits", "4-16-16", "--method", "rtn", "--tables")
    folder, tokens = quantize(*rounded, tables), some_tokens()
    stored = load_file(folder / "model.safetensors")
    assert "model.embed_tokens.weight" not in stored and stored["lm_head.weight_scale"].dtype == torch.float16
    for load in (AutoConfig, AutoModelForCausalLM):
        with pytest.raises(ValueError, match="osp_quantized"):
            load.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert "embedding and head are integers" in config["osp_quantization"]["osp_alone"]
    near, far = (osp_logits(quantize(*rounded, t), tokens) for t in ("bf16", tables))
    assert 0 < distance(far, near) < (0.05 if tables == "int8" else 0.5)
    # Every command runs it; on integers the text is that of any other table.
    words = ["--prompt", "#Hello", "--max-tokens", 4, "--json"]
    report = json.loads(run_program(["osp", "generate", folder, *words]).stdout)
    assert len(report["tokens"]) == 4 and "integer" in report["engine"]
    data = ["--data", source / "text.txt", "--json"]
    for engine in ("integer", "simulated"):
        run_program(["osp", "eval", folder, *data, "--engine", engine])
    for form in ("hf", "gptq", "panels"):
        run_program(["osp", "export", folder, "--format", form, "--out", folder.parent / f"{tables}-{form}"])


KINDS = [
    ("--bits", "4-16-16", "--profile", "best"),
    ("--bits", "4-16-16", "--method", "quarot+rtn"),
    ("--bits", "4-4-4", "--method", "rtn"),
    ("--bits", "4-4-4", "--method", "quarot+rtn", "--hadamard-block", 16),
    ("--bits", "4-4-16", "--asymmetric", "--group", 32),
]


@pytest.mark.parametrize("options", KINDS, ids=lambda o: "-".join(map(str, o)))
def test_every_kind_of_quantized_folder_writes_the_text_that_its_logits_say(
    options, quantize, run_program, osp_outputs
):
    folder = quantize(*options)
    prompt = "#Hello&world(quantized)"
    words = ["osp", "generate", folder, "--prompt", prompt, "--max-tokens", 8, "--json"]
    # The integer engine sums in another order, which moves activations at the edge between two codes.
    report = json.loads(run_program([*words, "--engine", "simulated"]).stdout)
    assert len(json.loads(run_program(words).stdout)["tokens"]) == 8
    ids = torch.tensor([report["prompt_tokens"] + report["tokens"]])
    assert len(report["tokens"]) == 8
    # Token by token through a cache, as generate reads.
    logits = osp_outputs(folder, ids, "--cache", "1")
    for step, token in enumerate(report["tokens"]):
        row = logits["cached_logits"][0, len(report["prompt_tokens"]) - 1 + step, :96]
        assert row[token] >= row.max() - 1e-4 * row.abs().max(), step
    # One pass without a cache: the same but for activations at the edge between two codes.
    assert (logits["cached_logits"] - logits["logits"]).abs().mean() < 0.02 * logits["logits"].abs().mean()


@pytest.mark.parametrize("options", KINDS, ids=lambda o: "-".join(map(str, o)))
def test_every_kind_of_quantized_folder_is_exported_as_a_plain_model(
    options, quantize, run_program, osp_logits, tmp_path
):
    folder, tokens = quantize(*options), some_tokens()
    result = run_program(["osp", "export", folder, "--format", "hf", "--out", tmp_path / "hf"])
    assert ("activations and cache run in 16 bits" in result.stderr) == ("4-16-16" not in options)
    found = transformers_logits(tmp_path / "hf", tokens)
    assert distance(found, osp_logits(tmp_path / "hf", tokens)) < SAME
    if "4-16-16" in options:  # nothing else is quantized: the same logits
        assert distance(found, osp_logits(folder, tokens)) < SAME
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and "quantization_config" not in config
    # Weights as numbers need no online transform in a GGUF file either.
    run_program(["osp", "export", folder, "--format", "gguf", "--dtype", "f16", "--out", tmp_path / "m.gguf"])
    gguf = osp_logits(tmp_path / "m.gguf", tokens)
    assert distance(gguf, found) < 5e-3  # weights rounded to fp16


@pytest.mark.parametrize(
    "command, part",
    [
        (["quantize", "FOLDER", "--method", "rtn", "--out", "OUT"], "is quantized already"),
        (["train", "RECIPE", "--init-from", "FOLDER", "--out", "OUT"], "the model is quantized"),
    ],
)
def test_commands_that_need_weights_of_full_precision_say_so(
    command, part, quantize, run_program, train_tokens, tmp_path
):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "[model]\nlayers = 2\nwidth = 64\nheads = 4\ncontext = 32\nvocabulary = 4096\n"
        f'[data]\npath = "{train_tokens}"\n'
        "[schedule]\nwarmup_steps = 1\n[train]\nsteps = 2\nbatch_tokens = 64\n"
    )
    for options in (("--bits", "4-16-16", "--profile", "best"), ("--bits", "4-4-4", "--method", "rtn")):
        words = {"FOLDER": quantize(*options), "OUT": tmp_path / "out", "RECIPE": recipe}
        result = run_program(["osp", *(words.get(w, w) for w in command)], check=False)
        assert result.returncode in (2, 3) and part in result.stderr, result.stderr


@pytest.mark.parametrize(
    "options", [("--method", "rtn"), ("--method", "gptq"), ("--asymmetric", "--group", 32)], ids=str
)
def test_a_factor_between_two_layers_changes_no_logit_and_loses_no_weight(
    options, source, quantize, run_program, osp_logits, tmp_path
):
    """up * 2^20 and down * 2^-20 is the same model."""
    shape, weights = SHAPE, random_weights(SHAPE)
    for name in weights:
        if "up_proj" in name or "down_proj" in name:
            weights[name] = weights[name] * 2.0 ** (20 if "up_proj" in name else -20)
    write_model_dir(tmp_path / "model", shape, weights)
    (tmp_path / "model" / "tokenizer.json").write_text((source / "model" / "tokenizer.json").read_text())
    result = run_program(["osp", "quantize", tmp_path / "model", "--calibration", source / "text.txt",
                          "--windows", 8, "--out", tmp_path / "q", "--bits", "4-16-16",
                          "--calibration-type", "fp32",
                          *options])  # fmt: skip
    assert "rounded to zeros" not in result.stderr
    tokens = some_tokens()
    plain = osp_logits(quantize("--bits", "4-16-16", "--calibration-type", "fp32", *options), tokens)
    assert distance(osp_logits(tmp_path / "q", tokens), plain) < SAME


@pytest.mark.parametrize("method", ["gptq", "qronos", "smoothquant+rtn", "awq+rtn", "quarot+gptq"])
def test_a_factor_between_gains_and_weights_changes_no_logit_in_any_method(
    method, source, quantize, run_program, osp_logits, tmp_path
):
    """Gains of 2^-30 before weights of 2^30 are the same model, whatever is quantized."""
    weights = random_weights(SHAPE)
    for name in weights:
        if "layers" in name and "layernorm" in name:
            weights[name] = weights[name] * 2.0**-30
        if any(part in name for part in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")):
            weights[name] = weights[name] * 2.0**30
    write_model_dir(tmp_path / "model", SHAPE, weights)
    (tmp_path / "model" / "tokenizer.json").write_text((source / "model" / "tokenizer.json").read_text())
    options = ["--bits", "4-4-4", "--calibration-type", "fp32", "--method", method]
    run_program(["osp", "quantize", tmp_path / "model", "--calibration", source / "text.txt", "--windows", 8,
                 "--out", tmp_path / "q", "--quiet", *options])  # fmt: skip
    tokens = some_tokens()
    plain = osp_logits(quantize(*options), tokens)
    assert distance(osp_logits(tmp_path / "q", tokens), plain) < SAME


def test_a_resumed_run_that_never_began_is_refused(source, run_program, tmp_path):
    result = run_program(["osp", "quantize", source / "model", "--calibration", source / "text.txt",
                          "--resume", "--out", tmp_path / "mistyped"], check=False)  # fmt: skip
    assert result.returncode == 2 and "nothing to resume" in result.stderr


@pytest.mark.parametrize("command", ["quantize", "eval", "eval --bits", "analyze", "quantize --report"])
def test_shards_of_another_tokenizer_are_said(command, source, train_tokens, run_program, tmp_path):
    model = tmp_path / "model"
    shape = Shape(
        width=64, heads=4, kv_heads=2, head_size=16, inner=128, layers=2, context=32, vocabulary=4096
    )
    write_model_dir(model, shape, random_weights(shape))
    (model / "tokenizer.json").write_text((source / "model" / "tokenizer.json").read_text())
    data = ["--data", train_tokens, "--data-tokens", 256]
    words = {
        "quantize": [
            "--calibration",
            train_tokens,
            "--windows",
            4,
            "--bits",
            "4-16-16",
            "--out",
            tmp_path / "q",
        ],
        "quantize --report": ["--method", "rtn", "--report", *data],
        "eval": data,
        "eval --bits": [*data, "--bits", "4-4-4"],
        "analyze": data,
    }[command]
    said = "made with another tokenizer.json than the model's"
    assert run_program(["osp", command.split()[0], model, *words]).stderr.count(said) == 1
    # With the tokenizer that made them there is nothing to say.
    (model / "tokenizer.json").write_bytes((train_tokens / "tokenizer.json").read_bytes())
    if command == "eval":
        assert said not in run_program(["osp", "eval", model, *words]).stderr


def test_names_that_are_not_utf8_are_written_in_every_result(source, osp_build, tmp_path):
    odd = bytes(tmp_path) + b"/caf\xe9"
    subprocess.run(["cp", "-r", source / "model", odd], check=True)
    text = odd + b"/text.txt"
    subprocess.run(["cp", source / "text.txt", text], check=True)
    osp, out = str(osp_build / "osp"), odd + b"-q"
    for command in (
        [osp, "quantize", odd, "--calibration", text, "--windows", "4", "--out", out, "--json", "--report",
         "--data", text],
        [osp, "eval", out, "--data", text, "--json"],
        [osp, "analyze", odd, "--data", text, "--json"],
        [osp, "generate", out, "--prompt", "abc", "--max-tokens", "2", "--json"],
        [osp, "export", out, "--format", "hf", "--out", odd + b"-hf", "--json"],
        [osp, "tokenize", text, "--tokenizer", odd, "--end-of-document", "none", "--out", odd + b"-t",
         "--json"],
    ):  # fmt: skip
        result = subprocess.run(command, capture_output=True)
        assert result.returncode == 0, (command, result.stderr)
        json.loads(result.stdout)
