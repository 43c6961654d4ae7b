"""Models of other families against transformers: logits, greedy text, storage, refusals."""

import json

import family_cases
import pytest
import torch
from family_cases import (
    CASES,
    FAMILIES,
    NEW_FAMILIES,
    NEW_TOKENS,
    NORMS_FROM_ONE,
    PROMPT,
    TWO_ROPES,
    YARN,
    greedy,
    random_model,
)
from safetensors.torch import load_file, save_file
from test_model_parity import cpu_levels
from transformers import AutoModelForCausalLM

probe = family_cases.probe

# Two correct fp32 programs differ by rounding: sums of up to 96 products, 2^-24 each, in two or
# three blocks; relative to the norm of all logits it stays below this.
FP32 = 1e-5


def difference(got, wanted):
    return ((got - wanted).norm() / wanted.norm()).item()


def assert_equals(outputs, model, tokens):
    """Logits as transformers' and every greedy step as transformers', with and without a cache."""
    with torch.no_grad():
        wanted = model(input_ids=tokens, use_cache=False).logits.float()
    for name in ["logits", "cached_logits"]:
        assert difference(outputs[name], wanted) < FP32, name
        steps = outputs[name][:, PROMPT.shape[1] - 1 : -1].argmax(-1)
        assert torch.equal(steps, tokens[:, PROMPT.shape[1] :]), name


@pytest.mark.parametrize("isa", [level for level in cpu_levels() if level != "avx2"])
@pytest.mark.parametrize("case", CASES)
def test_logits_and_greedy_text_equal_transformers(case, isa, probe, tmp_path):
    model = random_model(case)
    model.save_pretrained(tmp_path)
    tokens = greedy(model, PROMPT, NEW_TOKENS)
    assert_equals(probe(tmp_path, tokens, isa), model, tokens)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_sharded_and_narrow_weights_are_read_exactly(family, dtype, probe, tmp_path):
    random_model(family).to(dtype).save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens = greedy(model, PROMPT, NEW_TOKENS)
    assert_equals(probe(tmp_path, tokens), model, tokens)


@pytest.mark.parametrize("step", [1, 8])
@pytest.mark.parametrize(
    "case", ["Mistral window", "Qwen2 window", "OPT", "GPTNeoX", "Ministral3", "Olmo3", "Gemma2", "Gemma3"]
)
def test_cache_in_other_steps_gives_the_same_logits(case, step, probe, tmp_path):
    model = random_model(case)
    model.save_pretrained(tmp_path)
    tokens = greedy(model, PROMPT, NEW_TOKENS)
    assert_equals(probe(tmp_path, tokens, cache=step), model, tokens)


@pytest.mark.parametrize("original, long", [(19, True), (20, False)])
def test_longrope_is_chosen_by_the_length_of_the_text(original, long, probe, tmp_path):
    """20 tokens: beyond 19 all of them turn by the long factors, as in transformers."""
    changes = dict(original_max_position_embeddings=original)
    model = random_model("Phi3 longrope", **changes)
    model.save_pretrained(tmp_path)
    tokens = greedy(model, PROMPT, NEW_TOKENS)
    with torch.no_grad():
        wanted = model(input_ids=tokens, use_cache=False).logits.float()
    assert difference(probe(tmp_path, tokens, cache=None)["logits"], wanted) < FP32
    if not long:
        return
    # At once through a cache; in two steps the kept keys would be those of a short text.
    assert difference(probe(tmp_path, tokens, cache=20)["cached_logits"], wanted) < FP32
    refused = probe(tmp_path, tokens, check=False)
    assert refused.returncode == 3 and "longrope" in refused.stderr and "19" in refused.stderr
    other = random_model("Phi3 longrope", original_max_position_embeddings=20)
    with torch.no_grad():
        assert difference(other(input_ids=tokens, use_cache=False).logits, wanted) > 1e-3


def test_a_prompt_beyond_longropes_original_context_is_continued(run_program, repo_root, tmp_path):
    """A prompt is read in pieces; the first shows that the text is a long one."""
    tokenizer = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"
    sizes = dict(vocab_size=4096, original_max_position_embeddings=300, max_position_embeddings=1024)
    model = random_model("Phi3 longrope", **sizes)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    words = "A word of many meanings, and the fruit of a tree. " * 50
    command = ["osp", "generate", tmp_path / "model", "--prompt", words, "--max-tokens", 8, "--json"]
    report = json.loads(run_program(command).stdout)
    prompt = torch.tensor([report["prompt_tokens"]])
    assert 600 < prompt.shape[1] < 1000
    wanted = greedy(model, prompt, len(report["tokens"]))[0, prompt.shape[1] :]
    assert report["tokens"] == wanted.tolist() and len(wanted) > 0


def test_a_text_that_grows_past_longropes_original_context_is_read_again(run_program, repo_root, tmp_path):
    """As in transformers, whose Phi-3 drops its cache there."""
    tokenizer = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"
    sizes = dict(vocab_size=4096, original_max_position_embeddings=24, max_position_embeddings=256)
    model = random_model("Phi3 longrope", **sizes)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    command = ["osp", "generate", tmp_path / "model", "--prompt", "A word of many meanings, and", "--json"]
    report = json.loads(run_program([*command, "--max-tokens", 40]).stdout)
    tokens = torch.tensor([report["prompt_tokens"]])
    assert tokens.shape[1] < 20 and report["dropped_tokens"] == 0 and len(report["tokens"]) > 20
    with torch.no_grad():  # without a cache: the length of the text chooses the factors of every pass
        for _ in report["tokens"]:
            newest = model(input_ids=tokens, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, newest], 1)
    assert report["tokens"] == tokens[0, -len(report["tokens"]) :].tolist()


def test_the_integer_engine_goes_on_with_the_newest_half_at_longropes_original_context(
    run_program, repo_root, tmp_path
):
    tokenizer = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"
    sizes = dict(vocab_size=4096, original_max_position_embeddings=24, max_position_embeddings=256)
    random_model("Phi3 longrope", **sizes).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    folder = tmp_path / "w4"
    run_program(["osp", "quantize", tmp_path / "model", "--method", "rtn", "--out", folder, "--quiet"])
    words = ["--prompt", "A word of many meanings, and", "--max-tokens", 40, "--json"]
    report = json.loads(run_program(["osp", "generate", folder, *words, "--engine", "integer"]).stdout)
    assert len(report["tokens"]) == 40 and report["dropped_tokens"] > 0
    said = run_program(["osp", "generate", folder, *words[:-1], "--engine", "integer"]).stderr
    assert "fell out of the context of 24" in said
    # By default the whole context counts.
    whole = json.loads(run_program(["osp", "generate", folder, *words, "--engine", "simulated"]).stdout)
    assert len(whole["tokens"]) == 40 and whole["dropped_tokens"] == 0
    default = json.loads(run_program(["osp", "generate", folder, *words]).stdout)
    assert default["tokens"] == whole["tokens"] and "other factors beyond 24 tokens" in default["engine"]
    request = json.dumps({"text": "word " * 60}) + "\n"
    by_default, simulated = (
        run_program(["osp", "score", folder, *engine], input=request).stdout
        for engine in ([], ["--engine", "simulated"])
    )
    assert by_default == simulated
    # Longer texts at once, and texts that would grow past it among others, are refused with the reason.
    integer = ["osp", "score", folder, "--engine", "integer"]
    long = run_program(integer, input=request, check=False)
    assert long.returncode == 3 and "longrope" in long.stderr and "--engine simulated" in long.stderr
    request = json.dumps({"context": list(range(5, 20)), "max_tokens": 20}) + "\n"
    result = run_program(["osp", "score", tmp_path / "model"], input=request, check=False)
    assert result.returncode == 3 and "pass the 24 tokens beyond which" in result.stderr


def test_scores_of_texts_on_both_sides_of_longropes_original_context(run_program, tmp_path):
    """Choices of different lengths behind one context: short ones share it, a long one does not."""
    model = random_model("Phi3 longrope", original_max_position_embeddings=14)
    model.save_pretrained(tmp_path)
    context, choices = list(range(5, 17)), [[30, 31], [30, 31, 32], [30, 31, 32, 33, 34], [40] * 6]
    requests = "".join(json.dumps({"context": context, "continuation": choice}) + "\n" for choice in choices)
    answers = run_program(["osp", "score", tmp_path], input=requests).stdout.splitlines()
    for choice, score in zip(choices, map(json.loads, answers), strict=True):
        tokens = torch.tensor([context + choice[:-1]])
        with torch.no_grad():
            log_p = model(input_ids=tokens, use_cache=False).logits[0].double().log_softmax(-1)
        rows = log_p[len(context) - 1 :]
        wanted = float(rows.gather(1, torch.tensor(choice)[:, None]).sum())
        assert abs(score["log_likelihood"] - wanted) < 1e-4, (choice, wanted)


def test_dynamic_rope_is_refused_beyond_the_context(probe, tmp_path):
    model = random_model("Llama dynamic rope", max_position_embeddings=19)
    model.save_pretrained(tmp_path)
    tokens = greedy(model, PROMPT, NEW_TOKENS)
    for cache in (None, 20):
        refused = probe(tmp_path, tokens, check=False, cache=cache)
        assert refused.returncode == 3 and "dynamic" in refused.stderr and "19" in refused.stderr


SWITCHES = {
    "Granite": dict(embedding_multiplier=1.0, residual_multiplier=1.0, attention_multiplier=1.0,
                    logits_scaling=1.0),
    "Ministral3": dict(rope_parameters=dict(YARN, original_max_position_embeddings=6, mscale=1.0,
                                            mscale_all_dim=1.0, llama_4_scaling_beta=0.0)),
    "Gemma2": dict(attn_logit_softcapping=None, final_logit_softcapping=None, query_pre_attn_scalar=16),
    "Gemma3": dict(rope_parameters=dict(TWO_ROPES, sliding_attention=dict(rope_theta=500.0)),
                   final_logit_softcapping=None),
}  # fmt: skip


@pytest.mark.parametrize("family", SWITCHES)
def test_each_switch_of_a_family_changes_the_logits(family):
    """The cases would otherwise prove nothing."""
    with torch.no_grad():
        here = random_model(family)(input_ids=PROMPT, use_cache=False).logits
        for key, value in SWITCHES[family].items():
            there = random_model(family, **{key: value})(input_ids=PROMPT, use_cache=False).logits
            assert difference(there, here) > 1e-3, key


def test_a_window_changes_the_logits_of_the_test(probe, tmp_path):
    """The case would otherwise prove nothing."""
    narrow, wide = random_model("Mistral window"), random_model("Mistral")
    with torch.no_grad():
        a, b = (m(input_ids=PROMPT, use_cache=False).logits for m in (narrow, wide))
    assert difference(a, b) > 1e-3


def test_pythias_head_is_found_under_both_of_its_names(probe, tmp_path):
    model = random_model("GPTNeoX")
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(n for n in ("embed_out.weight", "lm_head.weight") if n in weights)
    other = {"embed_out.weight": "lm_head.weight", "lm_head.weight": "embed_out.weight"}[name]
    weights[other] = weights.pop(name)
    # Masks that old versions stored.
    weights["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    weights["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
    save_file(weights, tmp_path / "model.safetensors")
    tokens = greedy(model, PROMPT, NEW_TOKENS)
    assert_equals(probe(tmp_path, tokens), model, tokens)


def test_old_spellings_of_the_rotary_options_mean_the_same(probe, tmp_path):
    model = random_model("GPTNeoX sequential")
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config.update(rotary_emb_base=rope["rope_theta"], rotary_pct=rope["partial_rotary_factor"])
    path.write_text(json.dumps(config))
    tokens = greedy(model, PROMPT, NEW_TOKENS)
    assert_equals(probe(tmp_path, tokens), model, tokens)


# ---- the commands ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3", "SmolLM3", "Olmo2", "GPTNeoX", "OPT", *NEW_FAMILIES])
def test_commands_work_on_models_from_elsewhere(family, run_program, repo_root, tmp_path):
    tokenizer = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"
    model = random_model(family, vocab_size=4096)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    arguments = [
        "osp",
        "generate",
        tmp_path / "model",
        "--prompt",
        "A word of many",
        "--max-tokens",
        "9",
        "--json",
    ]
    report = json.loads(run_program(arguments).stdout)
    prompt = torch.tensor([report["prompt_tokens"]])
    wanted = greedy(model, prompt, len(report["tokens"]))[0, prompt.shape[1] :]
    assert report["tokens"] == wanted.tolist() and len(wanted) > 0
    text = tmp_path / "text.txt"
    text.write_text("An apple is the fruit of a tree, and a word has many meanings. " * 30)
    for command in ["eval", "analyze"]:
        result = run_program(["osp", command, tmp_path / "model", "--data", text, "--json", "--quiet"])
        assert json.loads(result.stdout)

    exported = ["osp", "export", tmp_path / "model", "--format", "hf", "--out", tmp_path / "out"]
    run_program(exported)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        if family in NORMS_FROM_ONE and a.dim() == 1 and not name.endswith("bias"):
            a, b = 1 + a, 1 + b  # what the model computes with; osp holds the sum
        assert torch.equal(a, b), name
