"""`osp quantize --method all`. The kind of fault: one refusal or stop throws away what the others gave."""

import json
import signal
import subprocess

import pytest
import torch
from small_tokenizers import letter_tokenizer
from train_fixture import one_thread, write_recipe
from transformers import AutoConfig, AutoModelForCausalLM


@pytest.fixture(scope="module")
def unrotatable(run_program, train_tokens, tmp_path_factory):
    """A model whose width has no Hadamard matrix: methods that rotate it are refused."""
    folder = tmp_path_factory.mktemp("unrotatable")
    recipe = write_recipe(folder / "osp.toml", train_tokens)
    shape = ["--set", "model.width=30", "--set", "model.heads=3", "--set", "model.inner=64"]
    run_program(["osp", "train", recipe, "--out", folder / "run", "--quiet", *shape], env=one_thread())
    text = folder / "text.txt"
    text.write_text("the dog sees a tree.\na cat hears rain.\n" * 200)
    return folder


def command(osp_build, folder, *more):
    words = [
        "quantize",
        folder / "run" / "model",
        "--method",
        "all",
        "--bits",
        "4-16-16",
        "--calibration",
        folder / "text.txt",
        "--windows",
        "4",
        "--spin-steps",
        "2",
        "--report",
        "--data",
        folder / "text.txt",
        "--data-tokens",
        "320",
        *more,
    ]
    return [str(osp_build / "osp"), *map(str, words)]


def call(osp_build, folder, *more):
    return subprocess.run(
        command(osp_build, folder, *more), capture_output=True, text=True, env=one_thread(), timeout=240
    )


def test_a_refused_cell_says_why_and_the_rest_goes_on(osp_build, unrotatable):
    result = call(osp_build, unrotatable, "--quiet")
    assert result.returncode == 0, result.stderr
    rows = {line.split("|")[1].strip(): line for line in result.stdout.splitlines() if line.startswith("|")}
    refused = [name for name, row in rows.items() if "refused" in row]
    assert "4-16-16 quarot+gptq" in refused and "4-16-16 rtn" not in refused and "4-16-16 gptq" not in refused
    for name in refused:
        assert f"{name.split()[1]} is refused: " in result.stdout
    document = json.loads(call(osp_build, unrotatable, "--quiet", "--json").stdout)
    assert {run["method"] for run in document["runs"]} >= {"rtn", "quarot+gptq"}
    for run in document["runs"]:
        assert ("refused" in run) != ("measured" in run)


def test_one_method_that_is_refused_ends_the_call(osp_build, unrotatable):
    words = [word if word != "all" else "spinquant" for word in command(osp_build, unrotatable)]
    assert subprocess.run(words, capture_output=True, env=one_thread()).returncode == 3


def test_a_mistyped_out_with_resume_begins_nothing(osp_build, unrotatable, tmp_path):
    result = call(osp_build, unrotatable, "--out", tmp_path / "mistyped", "--resume")
    assert result.returncode == 2 and "nothing to resume" in result.stderr
    assert not (tmp_path / "mistyped").exists()


def test_groups_that_the_profile_chose_are_not_mixed_with_others(osp_build, unrotatable, tmp_path):
    out = tmp_path / "all"
    words = command(osp_build, unrotatable, "--profile", "best", "--out", out, "--quiet")
    words = [word.replace("4-16-16", "4-4-16") for word in words]
    first = subprocess.run(words, capture_output=True, text=True, env=one_thread(), timeout=240)
    assert first.returncode == 0, first.stderr
    assert json.loads((out / "results.json").read_text())["call"]["groups_by_profile"] is True
    words += ["--resume", "--activation-group", "0"]
    other = subprocess.run(words, capture_output=True, text=True, env=one_thread(), timeout=240)
    assert other.returncode == 2 and "begun with other options" in other.stderr


def test_what_was_done_is_printed_kept_and_not_done_again(osp_build, unrotatable, tmp_path):
    out = tmp_path / "all"
    process = subprocess.Popen(
        command(osp_build, unrotatable, "--out", out),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=one_thread(),
    )
    wrote = 0
    for line in process.stderr:
        wrote += line.startswith("wrote")
        if wrote == 2:
            break
    process.send_signal(signal.SIGTERM)
    printed, rest = process.communicate(timeout=120)
    assert process.returncode == 75 and "--resume" in rest, rest
    assert "4-16-16 rtn" in printed
    kept = json.loads((out / "results.json").read_text())["runs"]
    assert kept
    whole = call(osp_build, unrotatable, "--out", out, "--resume", "--json")
    assert whole.returncode == 0, whole.stderr
    runs = json.loads(whole.stdout)["runs"]
    assert runs[: len(kept)] == kept
    assert json.loads((out / "results.json").read_text())["runs"] == runs
    for run in runs:
        assert "resume" not in run.get("refused", ""), "a method that had not begun begins"
        assert "refused" in run or (out / run["method"] / "config.json").exists()
    # Finished: nothing is computed any more, and other options are another call.
    again = call(osp_build, unrotatable, "--out", out, "--resume", "--json")
    assert json.loads(again.stdout)["runs"] == runs and "quantizing" not in again.stderr
    assert call(osp_build, unrotatable, "--out", out, "--resume", "--seed", "5").returncode == 2
    assert call(osp_build, unrotatable, "--out", out).returncode == 2


SIZES = dict(vocab_size=96, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, pad_token_id=None,
             max_position_embeddings=16, bos_token_id=None, eos_token_id=None)  # fmt: skip
LLAMA_LIKE = dict(SIZES, intermediate_size=64, num_key_value_heads=2)
# Model type -> its options, and which methods are refused, for what.
FAMILIES = {
    "olmo2": (
        LLAMA_LIKE,
        {
            "spinquant+gptq": "its norms follow the branches",
            "smoothquant+rtn": "in this family the norms follow the blocks",
        },
    ),
    "gpt_neox": (dict(SIZES, intermediate_size=64), {}),
    "olmo": (
        LLAMA_LIKE,
        {
            "smoothquant+rtn": "in this family the norms have none",
        },
    ),
    "stablelm": (LLAMA_LIKE, {}),
    "opt": (dict(SIZES, ffn_dim=64, word_embed_proj_dim=32), {}),
    "llama": (dict(LLAMA_LIKE, attention_bias=True, mlp_bias=True), {}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_number_or_the_true_reason_in_every_row(family, osp_build, tmp_path):
    options, refused = FAMILIES[family]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **options))
    with torch.no_grad():
        for parameter in model.parameters():
            deviation = 0.2 if parameter.dim() > 1 else 0.1
            parameter.copy_(torch.randn_like(parameter) * deviation + (parameter.dim() == 1))
    model.save_pretrained(tmp_path / "run" / "model")
    tokenizer = json.dumps(letter_tokenizer(), ensure_ascii=False)
    (tmp_path / "run" / "model" / "tokenizer.json").write_text(tokenizer)
    (tmp_path / "text.txt").write_text("the dog sees a tree.\na cat hears rain.\n" * 30)
    result = call(osp_build, tmp_path, "--length", "16", "--quiet", "--json")
    assert result.returncode == 0, result.stderr
    runs = {run["method"]: run for run in json.loads(result.stdout)["runs"]}
    assert len(runs) == 7
    assert {name for name, run in runs.items() if "refused" in run} == set(refused)
    for name, run in runs.items():
        if name in refused:
            assert refused[name] in run["refused"] and "measured" not in run
        else:
            # A random model says as much at 4 bits as before: nothing, about 96 choices or more.
            assert 50 < run["measured"]["perplexity"] < 5000, name
