"""Model dirs against transformers, both ways; export, generation, and damaged folders."""

import json
import struct
import subprocess

import pytest
import torch
from reference_llama import ReferenceModel, Shape, llama_config, random_weights, write_model_dir
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

# See test_model_parity.py: rounding of two correct fp32 programs, relative to the largest entry.
FP32 = 2e-5

OSP = Shape(norm="single-scale", embedding_projection=True, vocabulary=4096)


@pytest.fixture(scope="module")
def tokenizer_file(repo_root):
    return repo_root / "recipes" / "gcide-4096" / "tokenizer.json"


@pytest.fixture(scope="module")
def probe_logits(osp_build, tmp_path_factory):
    """Logits of a model dir by osp, or the failed process."""

    def run(folder, tokens, check=True):
        files = tmp_path_factory.mktemp("probe")
        save_file({"tokens": tokens, "targets": tokens.clone()}, files / "input.safetensors")
        command = [
            osp_build / "model_probe",
            folder,
            files / "input.safetensors",
            files / "output.safetensors",
        ]
        result = subprocess.run(command, capture_output=True, text=True)
        if not check:
            return result
        assert result.returncode == 0, result.stderr
        return load_file(files / "output.safetensors")["logits"]

    return run


def some_tokens(vocabulary, rows=2, length=29):
    return torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(3))


def difference(got, wanted):
    return ((got - wanted).abs().max() / wanted.abs().max()).item()


def transformers_llama(shape, seed=5):
    """A LlamaForCausalLM whose norms are not all ones."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(llama_config(shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.mul_(8)
    return model


def stored_logits(folder, tokens):
    """The results of transformers for a folder, widened to fp32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model.eval()(input_ids=tokens).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_reads_what_transformers_saves(dtype, tied, shard, probe_logits, tmp_path):
    shape = Shape(tied=tied)
    transformers_llama(shape).to(dtype).save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "20KB")
    tokens = some_tokens(shape.vocabulary)
    assert difference(probe_logits(tmp_path, tokens), stored_logits(tmp_path, tokens)) < FP32


def test_reads_an_equal_copy_of_a_tied_head_and_rotary_tables(probe_logits, tmp_path):
    shape = Shape(tied=True)
    weights = random_weights(shape)
    tokens = some_tokens(shape.vocabulary)
    plain = probe_logits(write_model_dir(tmp_path / "plain", shape, weights), tokens)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    with_copy = probe_logits(write_model_dir(tmp_path / "copy", shape, weights), tokens)
    assert torch.equal(plain, with_copy)


def test_keys_that_are_absent_mean_what_they_mean_in_transformers(probe_logits, tmp_path):
    shape = Shape(kv_heads=4, head_size=12, norm_eps=1e-6)
    weights = random_weights(shape)
    write_model_dir(tmp_path, shape, weights)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ["num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "tie_word_embeddings"]:
        del config[key]
    config["model_type"] = "llama"
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokens = some_tokens(shape.vocabulary)
    assert difference(probe_logits(tmp_path, tokens), stored_logits(tmp_path, tokens)) < FP32


@pytest.mark.parametrize("norm", ["single-scale", "simple", "rms"])
@pytest.mark.parametrize("projection", [True, False])
def test_exported_model_has_the_same_logits_in_transformers(
    norm, projection, run_program, tokenizer_file, tmp_path
):
    shape = Shape(norm=norm, embedding_projection=projection, vocabulary=4096, tied=not projection)
    weights = random_weights(shape)
    source = write_model_dir(tmp_path / "source", shape, weights, tokenizer_file)
    out = tmp_path / "out"
    result = run_program(["osp", "export", source, "--format", "hf", "--out", out, "--json"])
    report = json.loads(result.stdout)
    assert report["architecture"] == "LlamaForCausalLM"
    assert report["logit_difference"]["relative"] < FP32
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["tie_word_embeddings"] == (not projection)
    assert not any(key.startswith("osp_") for key in config)
    tokens = some_tokens(shape.vocabulary)
    with torch.no_grad():
        wanted = ReferenceModel(shape, weights).logits(tokens)
    assert difference(stored_logits(out, tokens), wanted) < FP32


@pytest.mark.parametrize("projection", [True, False])
def test_an_outlier_protected_model_is_exported_without_its_scalars(
    projection, run_program, probe_logits, tokenizer_file, tmp_path
):
    shape = Shape(
        norm="none",
        qk_norm=True,
        embedding_norm=True,
        branch_scale=True,
        embedding_projection=projection,
        vocabulary=4096,
        tied=not projection,
    )
    weights = random_weights(shape)
    source = write_model_dir(tmp_path / "source", shape, weights, tokenizer_file)
    out = tmp_path / "out"
    result = run_program(["osp", "export", source, "--format", "hf", "--out", out, "--json"])
    assert (
        json.loads(result.stdout)["architecture"] == "OspForCausalLM" and "osp alone reads" in result.stderr
    )
    config = json.loads((out / "config.json").read_text())
    options = {key: value for key, value in config.items() if key.startswith("osp_")}
    assert options == {"osp_norm": "none", "osp_embedding_projection": False, "osp_qk_norm": True}
    assert config["tie_word_embeddings"] is False  # the embedding's norm is in its table, not in the head's
    names = set(load_file(out / "model.safetensors"))
    assert not any("branch_scale" in name or "embed_norm" in name for name in names)
    tokens = some_tokens(shape.vocabulary)
    with torch.no_grad():
        wanted = ReferenceModel(shape, weights).logits(tokens)
    assert difference(probe_logits(out, tokens), wanted) < FP32


def test_exported_tables_are_the_fp64_products(run_program, tokenizer_file, tmp_path):
    weights = random_weights(OSP)
    source = write_model_dir(tmp_path / "source", OSP, weights, tokenizer_file)
    run_program(["osp", "export", source, "--format", "hf", "--out", tmp_path / "out"])
    out = load_file(tmp_path / "out" / "model.safetensors")
    wide = {name: w.double() for name, w in weights.items()}
    embedding = (wide["model.embed_tokens.weight"] @ wide["model.embed_proj.weight"].T).float()
    head = (wide["lm_head.weight"] @ wide["lm_head_proj.weight"]).float()
    # fp64 sums in another order may round to the other neighbour in fp32: one unit in the last place.
    torch.testing.assert_close(out["model.embed_tokens.weight"], embedding, rtol=2**-23, atol=1e-14)
    torch.testing.assert_close(out["lm_head.weight"], head, rtol=2**-23, atol=1e-14)
    gain = weights["model.layers.1.input_layernorm.weight"]
    assert torch.equal(out["model.layers.1.input_layernorm.weight"], gain.expand(OSP.width))


def test_bf16_export_rounds_the_fp32_export(run_program, tokenizer_file, tmp_path):
    source = write_model_dir(tmp_path / "source", OSP, random_weights(OSP), tokenizer_file)
    for dtype in ["fp32", "bf16"]:
        run_program(["osp", "export", source, "--format", "hf", "--out", tmp_path / dtype, "--dtype", dtype])
    wide = load_file(tmp_path / "fp32" / "model.safetensors")
    narrow = load_file(tmp_path / "bf16" / "model.safetensors")
    assert wide.keys() == narrow.keys()
    for name, tensor in wide.items():
        assert narrow[name].dtype == torch.bfloat16
        assert torch.equal(narrow[name], tensor.bfloat16())
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "bf16").dtype == torch.bfloat16


PROMPT = "A word of many meanings,"


def test_greedy_text_is_that_of_transformers(run_program, tokenizer_file, tmp_path):
    source = write_model_dir(tmp_path / "source", OSP, random_weights(OSP), tokenizer_file)
    run_program(["osp", "export", source, "--format", "hf", "--out", tmp_path / "out"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    inputs = tokenizer(PROMPT, return_tensors="pt")
    wanted = model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    wanted = [i for i in wanted.tolist() if i != tokenizer.eos_token_id]
    for folder in [source, tmp_path / "out"]:
        arguments = ["osp", "generate", folder, "--prompt", PROMPT, "--max-tokens", "24", "--json"]
        report = json.loads(run_program(arguments).stdout)
        assert report["prompt"] == PROMPT
        assert report["prompt_tokens"] == inputs["input_ids"][0].tolist()
        assert report["tokens"] == wanted
        assert report["text"] == tokenizer.decode(wanted, skip_special_tokens=True)
        assert report["seconds"] > 0 and report["tokens_per_s"] > 0


def test_auto_classes_know_the_end_of_document(run_program, tokenizer_file, tmp_path):
    source = write_model_dir(tmp_path / "source", OSP, random_weights(OSP), tokenizer_file)
    run_program(["osp", "export", source, "--format", "hf", "--out", tmp_path / "out"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert tokenizer.eos_token_id is not None
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == model.config.eos_token_id
    assert tokenizer.model_max_length == OSP.context


def generate(run_program, folder, *options):
    arguments = ["osp", "generate", folder, "--prompt", PROMPT, "--json", *options]
    return json.loads(run_program(arguments).stdout)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, tokenizer_file):
    folder = tmp_path_factory.mktemp("model")
    return write_model_dir(folder, OSP, random_weights(OSP), tokenizer_file)


def test_sampling_is_a_function_of_the_seed(run_program, model_dir):
    options = ["--temperature", "1", "--max-tokens", "16"]
    one = generate(run_program, model_dir, *options, "--seed", "1")
    assert generate(run_program, model_dir, *options, "--seed", "1")["tokens"] == one["tokens"]
    assert generate(run_program, model_dir, *options, "--seed", "2")["tokens"] != one["tokens"]
    greedy = generate(run_program, model_dir, "--max-tokens", "16")
    assert generate(run_program, model_dir, *options, "--top-k", "1")["tokens"] == greedy["tokens"]
    assert generate(run_program, model_dir, *options, "--top-p", "1e-9")["tokens"] == greedy["tokens"]


def test_stop_string_ends_the_text_before_it(run_program, model_dir):
    whole = generate(run_program, model_dir, "--max-tokens", "16")["text"]
    stop = whole[len(whole) // 2 :][:3]
    report = generate(run_program, model_dir, "--max-tokens", "16", "--stop", stop)
    assert report["text"] == whole[: whole.index(stop)]
    assert report["finish"] == "stop"
    two = generate(run_program, model_dir, "--max-tokens", "16", "--stop", "never there", "--stop", stop)
    assert two["text"] == report["text"]


def test_terminal_output_is_the_text_of_the_json(run_program, model_dir):
    whole = generate(run_program, model_dir, "--max-tokens", "16")["text"]
    result = run_program(["osp", "generate", model_dir, "--prompt", PROMPT, "--max-tokens", "16", "--quiet"])
    assert result.stdout == whole + "\n"
    assert result.stderr == ""


def test_prompt_that_is_not_utf8_is_read_with_replacement_characters(osp_build, model_dir):
    command = [
        osp_build / "osp",
        "generate",
        model_dir,
        "--prompt",
        b"caf\xe9",
        "--max-tokens",
        "2",
        "--json",
    ]
    report = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert report["prompt"] == "caf\ufffd"


def test_generation_goes_on_beyond_the_trained_context(run_program, model_dir):
    count = 2 * OSP.context
    report = generate(run_program, model_dir, "--max-tokens", str(count), "--temperature", "1")
    assert len(report["tokens"]) == count or report["finish"] == "end"
    seen = len(report["prompt_tokens"]) + len(report["tokens"])
    assert report["dropped_tokens"] > 0 and seen - report["dropped_tokens"] <= OSP.context + 1


# ---- what must be refused -------------------------------------------------------------------------


def edit_config(**changes):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        config.update(changes)
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def edit_weights(change):
    def damage(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return damage


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def index_to(file):
    def damage(folder):
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        names = load_file(folder.parent / "outside.safetensors").keys()
        index = {"metadata": {}, "weight_map": {name: file for name in names}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return damage


def index_without_a_tensor(folder):
    path = folder / "model.safetensors"
    names = set(load_file(path).keys()) - {"model.norm.weight"}
    path.rename(folder / "a.safetensors")
    index = {"weight_map": {name: "a.safetensors" for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def index_with_a_tensor_too_many(folder):
    path = folder / "model.safetensors"
    names = load_file(path).keys() | {"model.norm.bias"}
    path.rename(folder / "a.safetensors")
    index = {"weight_map": {name: "a.safetensors" for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_text(name, text):
    return lambda folder: (folder / name).write_text(text)


def hostile_header(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}")


DAMAGE = {
    "missing tensor": (edit_weights(lambda w: w.pop("model.norm.weight")), "model.norm.weight"),
    "extra tensor": (edit_weights(lambda w: w.update({"x\ny": torch.ones(2)})), "x\\ny"),
    "bias": (edit_weights(lambda w: w.update({"model.norm.bias": torch.ones(48)})), "model.norm.bias"),
    "wrong shape": (edit_weights(lambda w: w.update({"model.norm.weight": torch.ones(2)})), "[2]"),
    "transposed": (
        edit_weights(lambda w: w.update({"lm_head.weight": w["lm_head.weight"].T.contiguous()})),
        "lm_head.weight",
    ),
    "integer weights": (
        edit_weights(lambda w: w.update({"model.norm.weight": torch.ones(48, dtype=torch.int32)})),
        "I32",
    ),
    "double weights": (
        edit_weights(lambda w: w.update({"model.norm.weight": torch.ones(48, dtype=torch.float64)})),
        "F64",
    ),
    "truncated weights": (truncate, "model.safetensors"),
    "hostile header": (hostile_header, "model.safetensors"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    "tied head that differs": (edit_config(tie_word_embeddings=True), "tie_word_embeddings"),
    "index to a parent folder": (index_to("../outside.safetensors"), "../outside.safetensors"),
    "index to an absolute path": (index_to("/etc/passwd.safetensors"), "/etc/passwd"),
    "index to a missing file": (index_to("gone.safetensors"), "gone.safetensors"),
    "index to another type": (index_to("config.json"), "config.json"),
    "index lacks a tensor": (index_without_a_tensor, "model.norm.weight"),
    "index has a tensor too many": (index_with_a_tensor_too_many, "model.norm.bias"),
    "config is no JSON": (write_text("config.json", "{"), "config.json"),
    "config is a list": (write_text("config.json", "[]"), "config.json"),
    "config is empty": (write_text("config.json", "{}"), "architectures"),
    "duplicate key": (write_text("config.json", '{"a":1,"a":2}'), "config.json"),
    "negative layers": (edit_config(num_hidden_layers=-1), "num_hidden_layers"),
    "zero heads": (edit_config(num_attention_heads=0), "num_attention_heads"),
    "zero key heads": (edit_config(num_key_value_heads=0), "num_key_value_heads"),
    "2^62 layers": (edit_config(num_hidden_layers=2**62), "num_hidden_layers"),
    "2^64 width": (edit_config(hidden_size=2**64), "hidden_size"),
    "fractional width": (edit_config(hidden_size=48.5), "hidden_size"),
    "text as a number": (edit_config(vocab_size="101"), "vocab_size"),
    "largest sizes in range": (
        edit_config(hidden_size=65536, intermediate_size=2**20, num_hidden_layers=1024, vocab_size=2**24),
        "expected",
    ),
    "more layers than stored": (edit_config(num_hidden_layers=3), "model.layers.2"),
    "fewer layers than stored": (edit_config(num_hidden_layers=1), "model.layers.1"),
    "heads that do not divide": (edit_config(num_key_value_heads=3), "3"),
    "odd head size": (edit_config(head_dim=15), "15"),
    "eps not a number": (edit_config(rms_norm_eps="small"), "rms_norm_eps"),
    "negative eps": (edit_config(rms_norm_eps=-1.0), "rms_norm_eps"),
    "tied is no boolean": (edit_config(tie_word_embeddings=1), "tie_word_embeddings"),
    "another architecture": (edit_config(architectures=["MambaForCausalLM"]), "MambaForCausalLM"),
    "rope scaling": (edit_config(rope_scaling={"type": "proportional", "factor": 2.0}), "rope_scaling"),
    "rope parameters": (
        edit_config(rope_parameters={"rope_type": "proportional", "rope_theta": 1e4, "factor": 8.0}),
        "rope_type",
    ),
    "attention bias": (edit_config(attention_bias=True), "q_proj.bias"),
    "MLP bias": (edit_config(mlp_bias=True), "gate_proj.bias"),
    "sliding window": (edit_config(sliding_window=128), "sliding_window"),
    "another activation": (edit_config(hidden_act="quick_gelu"), "hidden_act"),
    "quantized weights": (edit_config(quantization_config={"bits": 4}), "quantization_config"),
    "a Llama with our keys": (edit_config(osp_qk_norm=True), "osp_qk_norm"),
    "ours without our keys": (edit_config(architectures=["OspForCausalLM"]), "osp_norm"),
    "unknown norm": (
        edit_config(architectures=["OspForCausalLM"], osp_norm="batch"),
        "osp_norm",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_model_dir_is_refused_in_one_line(case, run_program, tokenizer_file, tmp_path):
    damage, named = DAMAGE[case]
    shape = Shape()
    folder = write_model_dir(tmp_path / "model", shape, random_weights(shape), tokenizer_file)
    damage(folder)
    result = run_program(["osp", "export", folder, "--format", "hf", "--out", tmp_path / "out"], check=False)
    assert result.returncode == 3, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("error: ")
    assert str(folder) in result.stderr
    assert named in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_undamaged_twin_of_the_table_is_exported(run_program, tokenizer_file, tmp_path):
    folder = write_model_dir(tmp_path / "model", Shape(), random_weights(Shape()), tokenizer_file)
    run_program(["osp", "export", folder, "--format", "hf", "--out", tmp_path / "out"])
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_qk_norm_is_refused_by_name_for_a_plain_llama(run_program, tokenizer_file, tmp_path):
    shape = Shape(qk_norm=True)
    folder = write_model_dir(tmp_path / "model", shape, random_weights(shape), tokenizer_file)
    result = run_program(["osp", "export", folder, "--format", "hf", "--out", tmp_path / "out"], check=False)
    assert result.returncode == 3 and "QK-norm" in result.stderr


def test_export_refuses_other_formats_and_existing_folders(run_program, model_dir, tmp_path):
    other = run_program(
        ["osp", "export", model_dir, "--format", "onnx", "--out", tmp_path / "x"], check=False
    )
    assert other.returncode == 2 and "hf" in other.stderr and "onnx" in other.stderr
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("of somebody else")
    again = run_program(
        ["osp", "export", model_dir, "--format", "hf", "--out", tmp_path / "there"], check=False
    )
    assert again.returncode == 2 and "exists" in again.stderr


def test_tokenizer_of_another_model_is_refused(run_program, tokenizer_file, tmp_path):
    shape = Shape()  # 101 tokens, the tokenizer has 4,096
    folder = write_model_dir(tmp_path, shape, random_weights(shape), tokenizer_file)
    result = run_program(["osp", "generate", folder, "--prompt", PROMPT], check=False)
    assert result.returncode == 3 and "vocabulary" in result.stderr


def test_generate_refuses_bad_options(run_program, model_dir):
    for options in [
        ["--top-p", "0"],
        ["--top-p", "nan"],
        ["--temperature", "-1"],
        ["--top-k", "-1"],
        ["--stop", ""],
    ]:
        result = run_program(["osp", "generate", model_dir, "--prompt", "x", *options], check=False)
        assert result.returncode == 2, options
