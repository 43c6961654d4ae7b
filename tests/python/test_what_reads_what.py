"""Cells of "What reads what" (docs/formats.md) that no other test shows: commands that read a kind of model
as what it is, or refuse it with what to do."""

import json

import pytest
import torch
from safetensors.torch import load_file
from train_fixture import one_thread, write_recipe

TEXT = "the dog sees a tree.\n" * 400


@pytest.fixture(scope="module")
def models(run_program, serve_folder, train_tokens, tmp_path_factory):
    """One trained model as a run's folder, as a GGUF file with all bits, as a GPTQ folder; and a model on the
    engine, as a quantized folder and as panels."""
    folder = tmp_path_factory.mktemp("models")
    recipe = write_recipe(folder / "recipe.toml", train_tokens, "adam")
    run_program(["osp", "train", recipe, "--out", folder / "run", "--quiet"], env=one_thread())
    plain = folder / "run" / "model"
    all_bits = ["--dtype", "fp32", "--tables", "fp32", "--quiet"]
    run_program(["osp", "export", plain, "--format", "gguf", "--out", folder / "m.gguf", *all_bits])
    run_program(["osp", "quantize", plain, "--method", "rtn", "--bits", "4-16-16", "--out", folder / "codes"])
    run_program(["osp", "export", folder / "codes", "--format", "gptq", "--out", folder / "gptq", "--quiet"])
    run_program(["osp", "export", serve_folder, "--format", "panels", "--out", folder / "panels", "--quiet"])
    (folder / "text.txt").write_text(TEXT)
    return {
        "folder": plain,
        "gguf": folder / "m.gguf",
        "gptq": folder / "gptq",
        "quantized": serve_folder,
        "panels": folder / "panels",
        "recipe": recipe,
        "text": folder / "text.txt",
    }


@pytest.fixture
def call(models, run_program, tmp_path):
    """call(words, model): what a command says; MODEL, TEXT, RECIPE and OUT stand for paths."""

    def run(words, model, out="out"):
        paths = {"MODEL": models[model], "TEXT": models["text"], "RECIPE": models["recipe"]}
        paths["OUT"] = tmp_path / out
        command = [paths.get(word, word) for word in ["osp", *words.split()]]
        return run_program(command, check=False, env=one_thread())

    return run


NOT_QUANTIZED = "is not quantized; quantize it first"
BENCH_QUANTIZE = (
    "bench quantize MODEL --alone --calibration TEXT --windows 4 --length 16 --repetitions 1 "
    "--calibration-type fp32 --json --quiet"
)
BENCH_RUN = (
    "bench run MODEL --prefill 8 --depths 0 --sequences 1 --decode-tokens 2 --repetitions 1 --json --quiet"
)
REFUSED = [
    ("serve MODEL --port 0", "gguf", 2, NOT_QUANTIZED),
    ("serve MODEL --port 0", "gptq", 2, NOT_QUANTIZED),
    ("quantize MODEL --method rtn --out OUT", "panels", 2, "is quantized already; give the model"),
    ("train RECIPE --init-from MODEL --out OUT", "panels", 3, "quantized"),
    ("export MODEL --format gguf --out OUT", "panels", 3, "the folder that they were made from"),
    ("export MODEL --format panels --out OUT", "folder", 2, NOT_QUANTIZED),
    ("export MODEL --format panels --out OUT", "gguf", 2, NOT_QUANTIZED),
    ("export MODEL --format panels --out OUT", "gptq", 2, NOT_QUANTIZED),
    ("average MODEL MODEL --out OUT", "quantized", 3, "give the model that it was made from"),
    ("average MODEL MODEL --out OUT", "panels", 3, "give the model that it was made from"),
    (BENCH_QUANTIZE, "quantized", 3, "is quantized already; give the model"),
    (BENCH_QUANTIZE, "panels", 3, "is quantized already; give the model"),
    (BENCH_RUN, "folder", 2, NOT_QUANTIZED),
    (BENCH_RUN, "gguf", 2, NOT_QUANTIZED),
    (BENCH_RUN, "gptq", 2, NOT_QUANTIZED),
]


@pytest.mark.parametrize(
    "words, model, status, reason", REFUSED, ids=lambda value: str(value).split(" MODEL")[0]
)
def test_a_model_of_another_kind_is_refused_with_what_to_do(call, tmp_path, words, model, status, reason):
    result = call(words, model)
    assert result.returncode == status and reason in result.stderr, result.stderr
    # Weights are read once the run folder is taken, whose lock stays.
    assert words.startswith("train") or not (tmp_path / "out").exists()


def test_a_gguf_file_is_analyzed_as_the_model_it_was_made_of(call):
    words = "analyze MODEL --data TEXT --data-tokens 256 --cost-tokens 0 --json --quiet"
    file, folder = (json.loads(call(words, model).stdout) for model in ("gguf", "folder"))
    for key in ("model", "seconds", "data", "command"):
        file.pop(key, None), folder.pop(key, None)
    assert file == folder


def test_files_and_codes_of_others_are_averaged_as_numbers(call, tmp_path):
    for model in ("folder", "gguf", "gptq"):
        assert call("average MODEL MODEL --out OUT --quiet", model, f"mean-{model}").returncode == 0
        assert call("export MODEL --format hf --out OUT --quiet", model, f"hf-{model}").returncode == 0
        mean, numbers = (load_file(tmp_path / f"{n}-{model}" / "model.safetensors") for n in ("mean", "hf"))
        assert mean.keys() == numbers.keys()
        assert all(torch.equal(mean[name], numbers[name]) for name in mean), model


@pytest.mark.parametrize("model", ["gguf", "gptq"])
def test_a_run_starts_from_the_numbers_of_files_and_codes_of_others(call, tmp_path, model):
    frozen = "--set optim.lr=0 --set optim.weight_decay=0 --quiet"
    result = call(f"train RECIPE --init-from MODEL --out OUT {frozen}", model)
    assert result.returncode == 0, result.stderr
    assert call("export MODEL --format hf --out OUT --quiet", model, "hf").returncode == 0
    trained, numbers = (load_file(tmp_path / name / "model.safetensors") for name in ("out/model", "hf"))
    assert all(torch.equal(trained[name], numbers[name]) for name in trained)


@pytest.mark.parametrize("model", ["folder", "gguf", "gptq"])
def test_quantizing_is_timed_of_every_model_with_weights(call, model):
    result = call(BENCH_QUANTIZE, model)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["comparisons"]


@pytest.mark.parametrize("model", ["quantized", "panels"])
def test_the_engine_is_timed_with_a_folder_and_its_panels(call, model):
    result = call(BENCH_RUN, model)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["prefill"]
