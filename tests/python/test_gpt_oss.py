"""gpt-oss against transformers: logits and greedy text of plain and of MXFP4 folders, the published
config.json, folders that osp writes, refusals."""

import json

import family_cases
import pytest
import torch
import transformers
from expert_cases import assert_narrow_shards_are_exact, assert_written_equals, pair_experts
from family_cases import PROMPT, YARN, assert_refused, greedy
from gpt_oss_cases import E2M1, MXFP4, PACKABLE, random_model, write_packed
from safetensors.torch import load_file, save_file
from small_tokenizers import letter_tokenizer
from test_families import assert_equals, difference
from transformers import AutoModelForCausalLM

probe = family_cases.probe

FULL, SLIDING = "full_attention", "sliding_attention"

CASES = {
    "as it comes": {},
    "the usual limit": dict(swiglu_limit=7.0),
    "another alpha": dict(swiglu_alpha=0.9),
    "full attention": dict(layer_types=[FULL] * 3),
    "windows alone": dict(layer_types=[SLIDING] * 3),
    "a window at the end": dict(layer_types=[FULL, FULL, SLIDING]),
    "a window of one token": dict(sliding_window=1),
    "one expert per token": dict(num_experts_per_tok=1),
    "all experts": dict(num_local_experts=3, num_experts_per_tok=3),
    "one expert": dict(num_local_experts=1, num_experts_per_tok=1),
    "many experts": dict(num_local_experts=33, num_experts_per_tok=4),
    "as wide inside": dict(intermediate_size=48),
    "no biases of attention": dict(attention_bias=False),
    "one head of keys": dict(num_key_value_heads=1),
    "tied": dict(tie_word_embeddings=True),
    "rope by whole pairs": dict(rope_parameters=YARN),
    "plain rope": dict(rope_parameters=dict(rope_type="default", rope_theta=500.0)),
    "rope of the family": dict(rope_parameters=None, max_position_embeddings=131072),
}


@pytest.mark.parametrize("isa", [None, "portable"])
@pytest.mark.parametrize("case", CASES)
def test_logits_and_greedy_text_equal_transformers(case, isa, probe, tmp_path):
    assert_written_equals(random_model(**CASES[case]), tmp_path, probe, 13, isa)


@pytest.mark.parametrize("step", [1, 4, 8, 20])
def test_a_cache_in_any_steps_gives_the_same_logits(step, probe, tmp_path):
    assert_written_equals(random_model(), tmp_path, probe, 13, cache=step)


def without_sinks(model):
    for layer in model.model.layers:
        layer.self_attn.sinks.fill_(-1e9)


def without_router_bias(model):
    for layer in model.model.layers:
        layer.mlp.router.bias.zero_()


def without_expert_biases(name):
    def change(model):
        for layer in model.model.layers:
            getattr(layer.mlp.experts, name).zero_()

    return change


@pytest.mark.parametrize(
    "change",
    [
        dict(swiglu_limit=7.0),
        dict(swiglu_alpha=1.0),
        dict(sliding_window=4),
        dict(num_experts_per_tok=3),
        dict(layer_types=[FULL, SLIDING, FULL]),
        dict(rope_parameters=dict(YARN, beta_fast=3.0, beta_slow=0.2, truncate=True)),
        without_sinks,
        without_router_bias,
        without_expert_biases("gate_up_proj_bias"),
        without_expert_biases("down_proj_bias"),
    ],
)
def test_each_part_changes_the_logits(change):
    """So that the tests above could see a part that osp passed over."""
    plain = random_model()
    other = random_model(**change) if isinstance(change, dict) else random_model()
    with torch.no_grad():
        if callable(change):
            change(other)
        assert difference(other(PROMPT).logits, plain(PROMPT).logits) > 1e-3


def test_equal_logits_choose_the_experts_of_transformers(probe, tmp_path):
    model = random_model(num_local_experts=6, num_experts_per_tok=3)
    for layer in model.model.layers:
        pair_experts(layer.mlp.router)
    assert_written_equals(model, tmp_path, probe)


@pytest.mark.parametrize("sink", [-1e4, 60.0])
def test_sinks_far_from_the_logits_take_nothing_or_nearly_all(sink, probe, tmp_path):
    model = random_model()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.sinks[::2] = sink
    assert_written_equals(model, tmp_path, probe)


def test_sharded_and_narrow_weights_are_read_exactly(probe, tmp_path):
    assert_narrow_shards_are_exact(random_model(), tmp_path, probe)


# ---- the published files --------------------------------------------------------------------------

# The values of openai/gpt-oss-20b's config.json.
PUBLISHED = dict(
    architectures=["GptOssForCausalLM"],
    attention_bias=True,
    attention_dropout=0.0,
    eos_token_id=200002,
    experts_per_token=4,
    head_dim=64,
    hidden_act="silu",
    hidden_size=2880,
    initial_context_length=4096,
    initializer_range=0.02,
    intermediate_size=2880,
    layer_types=[SLIDING, FULL] * 12,
    max_position_embeddings=131072,
    model_type="gpt_oss",
    num_attention_heads=64,
    num_experts_per_tok=4,
    num_hidden_layers=24,
    num_key_value_heads=8,
    num_local_experts=32,
    output_router_logits=False,
    pad_token_id=199999,
    quantization_config=MXFP4,
    rms_norm_eps=1e-05,
    rope_scaling=dict(
        beta_fast=32.0,
        beta_slow=1.0,
        factor=32.0,
        original_max_position_embeddings=4096,
        rope_type="yarn",
        truncate=False,
    ),
    rope_theta=150000,
    router_aux_loss_coef=0.9,
    sliding_window=128,
    swiglu_limit=7.0,
    tie_word_embeddings=False,
    transformers_version="4.55.0.dev0",
    use_cache=True,
    vocab_size=201088,
)
SMALL = dict(
    vocab_size=101,
    hidden_size=64,
    intermediate_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    layer_types=[SLIDING, FULL] * 2,
    pad_token_id=None,
    eos_token_id=None,
)


def test_the_published_config_is_read(probe, tmp_path):
    """With the published rotary embedding, window, limit and experts, and sizes of a test."""
    model = write_packed(
        tmp_path, **SMALL, num_local_experts=32, num_experts_per_tok=4, sliding_window=128,
        swiglu_limit=7.0, max_position_embeddings=131072, rope_parameters=PUBLISHED["rope_scaling"]
        | dict(rope_theta=150000.0),
    )  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(dict(PUBLISHED, **SMALL)))
    tokens = torch.randint(0, 101, (2, 150), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        wanted = model(tokens, use_cache=False).logits
    found = probe(tmp_path, tokens, cache=37)
    assert difference(found["logits"], wanted) < 1e-5
    assert difference(found["cached_logits"], wanted) < 1e-5


def test_the_published_config_in_its_own_sizes_asks_for_its_tensors(probe, tmp_path):
    """The file as it is, beside weights that are not the model's."""
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    embedding = torch.zeros(201088, 2880, dtype=torch.float8_e4m3fn)
    save_file({"model.embed_tokens.weight": embedding}, tmp_path / "model.safetensors")
    result = probe(tmp_path, check=False)
    assert result.returncode == 3 and "F8_E4M3; osp reads F32" in result.stderr, result.stderr
    save_file({"model.embed_tokens.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert "[201088, 2880]" in probe(tmp_path, check=False).stderr


@pytest.mark.parametrize("sizes", [{}, dict(hidden_size=96, intermediate_size=96)])
def test_mxfp4_is_read_as_the_numbers_that_it_stands_for(sizes, run_program, probe, tmp_path):
    model = write_packed(tmp_path / "model", **sizes)
    tokens = greedy(model, PROMPT, 13)
    assert_equals(probe(tmp_path / "model", tokens), model, tokens)
    # Bit for bit, and as transformers reads the folder.
    run_program(["osp", "export", tmp_path / "model", "--format", "hf", "--out", tmp_path / "plain"])
    plain = load_file(tmp_path / "plain" / "model.safetensors")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model",
        dtype=torch.float32,
        quantization_config=transformers.Mxfp4Config(dequantize=True),
    ).state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(plain[name], weight), name
        assert torch.equal(theirs[name], weight), name
    assert "quantization_config" not in json.loads((tmp_path / "plain" / "config.json").read_text())


def test_every_code_is_exact_at_the_smallest_scales(run_program, tmp_path):
    """Where numbers are subnormal: 2^-127 times 0.5 and so on."""

    def change(tensors):
        blocks, scales = tensors[down(1, "_blocks")], tensors[down(1, "_scales")]
        blocks.copy_(torch.arange(16, dtype=torch.uint8) * 17)
        scales.copy_(torch.arange(scales.numel()).remainder(3).view(scales.shape))

    model = write_packed(tmp_path / "model", change)
    command = ["osp", "export", tmp_path / "model", "--format", "hf", "--out", tmp_path / "plain"]
    run_program(command)
    found = load_file(tmp_path / "plain" / "model.safetensors")[down(1, "")]
    numbers = torch.from_numpy(E2M1).double().repeat_interleave(2)  # both codes of a byte are the same
    wanted = numbers * torch.exp2(torch.arange(3).double() - 127).unsqueeze(1)
    assert found.shape == model.model.layers[1].mlp.experts.down_proj.shape
    assert torch.equal(found[0, :, 0].double().view(3, 32), wanted) and found[0, 1, 0] == 0
    assert torch.equal(found[4, :, 63].double().view(3, 32), wanted) and found[0, 2, 0] == 2.0**-128


def down(number, part):
    return f"model.layers.{number}.mlp.experts.down_proj{part}"


def put(name, value):
    def change(tensors):
        tensors[name] = value(tensors[name]) if callable(value) else value

    return change


def filled(place, value):
    def change(tensor):
        tensor.flatten()[place] = value
        return tensor

    return change


def code_4_at_the_largest_scale(tensors):
    tensors[down(1, "_scales")].flatten()[7] = 253
    tensors[down(1, "_blocks")].flatten()[7 * 16 + 3] = 0x60  # 4 · 2^126


PACKED_REFUSALS = {
    "a scale of NaN": (
        put(down(1, "_scales"), filled(11, 255)),
        ["layers.1.mlp.experts.down_proj", "_scales holds 255", "E8M0", "element 11"],
    ),
    "a number beyond fp32": (
        code_4_at_the_largest_scale,
        ["layers.1.mlp.experts.down_proj", "block 7", "beyond fp32", "2^126"],
    ),
    "no scales": (
        lambda t: t.pop(down(2, "_scales")),
        ["layers.2.mlp.experts.down_proj_scales", "missing"],
    ),
    "no blocks": (
        lambda t: t.pop(down(2, "_blocks")),
        ["layers.2.mlp.experts.down_proj", "missing", "[5, 96, 64]"],
    ),
    "scales of floats": (
        put(down(0, "_scales"), lambda s: s.float()),
        ["down_proj", "_scales is F32", "expected U8 [5, 64, 3]"],
    ),
    "fewer experts": (
        put(down(0, "_blocks"), lambda b: b[:4].clone()),
        ["down_proj", "U8 [4, 64, 3, 16]", "U8 [5, 64, 3, 16]"],
    ),
    "codes in a row": (
        put(down(0, "_blocks"), lambda b: b.flatten(2).clone()),
        ["down_proj", "[5, 64, 48]", "[5, 64, 3, 16]"],
    ),
    "turned": (
        put(down(0, "_scales"), lambda s: s.transpose(1, 2).contiguous()),
        ["down_proj", "_scales is U8 [5, 3, 64]"],
    ),
    "plain weights as well": (
        put(down(0, ""), torch.zeros(5, 96, 64)),
        ["down_proj", "belongs to no part"],
    ),
    "a bias of another shape": (
        put(down(0, "_bias"), lambda b: b.flatten().clone()),
        ["down_proj_bias", "[320]", "[5, 64]"],
    ),
    "no sinks": (lambda t: t.pop("model.layers.1.self_attn.sinks"), ["layers.1.self_attn.sinks", "missing"]),
    "sinks of NaN": (
        put("model.layers.1.self_attn.sinks", filled(2, float("nan"))),
        ["layers.1.self_attn.sinks", "nan", "element 2"],
    ),
    "a router bias less": (
        lambda t: t.pop("model.layers.0.mlp.router.bias"),
        ["layers.0.mlp.router.bias", "missing", "[5]"],
    ),
}


@pytest.mark.parametrize("case", PACKED_REFUSALS)
def test_packed_folders_that_contradict_themselves_are_refused_by_name(case, probe, tmp_path):
    change, named = PACKED_REFUSALS[case]
    write_packed(tmp_path, change)
    assert_refused(probe(tmp_path, check=False), ["model.safetensors", *named])


def test_blocks_that_do_not_divide_the_inputs_are_refused(probe, tmp_path):
    write_packed(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(intermediate_size=80)))
    tensors = load_file(tmp_path / "model.safetensors")
    for name, tensor in tensors.items():
        if "gate_up_proj" in name:
            tensors[name] = tensor[:, :160].clone()
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert_refused(probe(tmp_path, check=False), ["down_proj", "blocks of 32 do not divide the 80 inputs"])


def test_packed_weights_without_their_quantization_config_are_refused(probe, tmp_path):
    write_packed(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["quantization_config"]
    path.write_text(json.dumps(config))
    assert_refused(probe(tmp_path, check=False), ["mlp.experts.gate_up_proj", "missing", "[5, 64, 192]"])


CONFIG_REFUSALS = {
    "too many per token": (dict(num_experts_per_tok=6), ["6 experts per token", "1 to 5"]),
    "none": (dict(num_local_experts=0), ["num_local_experts", "0"]),
    "two numbers of experts per token": (dict(experts_per_token=3), ["experts_per_token = 3", "2"]),
    "no limit": (dict(swiglu_limit=None), ["swiglu_limit = null"]),
    "a limit of 0": (dict(swiglu_limit=0.0), ["swiglu_limit"]),
    "an alpha of text": (dict(swiglu_alpha="1"), ["swiglu_alpha"]),
    "shared experts": (dict(n_shared_experts=2), ["n_shared_experts"]),
    "another kind of layer": (dict(layer_types=["chunked_attention"] * 3), ["layer_types", "chunked"]),
    "more experts than stored": (dict(num_local_experts=6), ["mlp.router.weight", "[5, 48]", "[6, 48]"]),
    "another inner size": (dict(intermediate_size=33), ["gate_up_proj", "[5, 48, 64]", "[5, 48, 66]"]),
    "another packing": (
        dict(quantization_config={"quant_method": "mxfp8"}),
        ['quant_method is "mxfp8"', "mxfp4"],
    ),
}


@pytest.mark.parametrize("case", CONFIG_REFUSALS)
def test_config_that_osp_cannot_follow_is_refused_by_name(case, probe, tmp_path):
    changes, named = CONFIG_REFUSALS[case]
    random_model().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert_refused(probe(tmp_path, check=False), [str(tmp_path), *named])


# ---- what osp writes ------------------------------------------------------------------------------


@pytest.mark.parametrize("case, dtype", [*((case, "fp32") for case in CASES), ("as it comes", "bf16")])
def test_transformers_loads_what_osp_exports(case, dtype, run_program, tmp_path):
    model = random_model(**CASES[case])
    if dtype == "bf16":
        for parameter in model.parameters():  # not the buffers of the rotary embedding
            parameter.data = parameter.data.bfloat16().float()
    model.save_pretrained(tmp_path / "model")
    command = ["osp", "export", tmp_path / "model", "--format", "hf", "--dtype", dtype, "--quiet"]
    run_program([*command, "--out", tmp_path / "out"])
    back = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    assert type(back) is transformers.GptOssForCausalLM
    for name, weight in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], weight), name
    with torch.no_grad():  # the order of sums depends on where tensors lie in memory
        assert difference(back(PROMPT).logits, model(PROMPT).logits) < 1e-6


def test_a_tokenizer_goes_along(run_program, tmp_path):
    random_model(vocab_size=96).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(letter_tokenizer()))
    run_program(["osp", "export", tmp_path / "model", "--format", "hf", "--out", tmp_path / "out"])
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert (
        PACKABLE["swiglu_limit"] == json.loads((tmp_path / "out" / "config.json").read_text())["swiglu_limit"]
    )
