"""The kind of fault: a change that makes what users have stored unreadable, or something else. The files of
tests/recorded were written by released formats and are never made anew; every program resumes, reads and runs
them, and gives the numbers that were recorded with them."""

import json
import shutil
from pathlib import Path

import pytest
from record_fixtures import FOLDERS, RUNS, weights_of
from train_fixture import metrics, one_thread

RECORDED = Path(__file__).resolve().parents[1] / "recorded"
VERSIONS = sorted(path.name for path in RECORDED.iterdir() if path.is_dir())

# Of a loss. Kernels of other instruction sets and CPUs sum in another order: on one CPU the levels of OSP_ISA
# moved these losses by at most 5e-7 in fp32 and 6e-5 in bf16. A resume that has lost the optimizer's state
# differs by 3e-3.
LOSS = {"run-fp32": 2e-5, "run-bf16": 4e-4}
# Of a perplexity or a log-likelihood in floating point with activations on a grid: a sum in another order
# moves a number to the other neighbour now and then. OSP_ISA moved them by at most 4e-7, where none did.
SIMULATED = 5e-3
# Of perplexities and log-likelihoods on the integer engine: fp32 logarithms, summed in fp64.
INTEGER = 1e-6


@pytest.fixture(params=VERSIONS)
def recorded(request, tmp_path):
    """A copy of one version's files, and what must come of them."""
    folder = tmp_path / "recorded"
    shutil.copytree(RECORDED / request.param, folder)
    return folder, json.loads((folder / "expected.json").read_text())


@pytest.fixture
def osp(run_program, recorded):
    """osp(*words) -> stdout of a command in the folder of the copy."""
    return lambda *words: run_program(["osp", *words], cwd=recorded[0], env=one_thread()).stdout


def perplexity(osp, model):
    return json.loads(osp("eval", model, "--data", "tokens", "--json"))["results"][0]["perplexity"]


def test_perplexity_of_an_osp_model_is_near_the_simulations(osp):
    """Trained with OSP's recipe it has no outliers, so that a code that flips changes little."""
    integer, simulated = (
        json.loads(osp("eval", "w4a4kv4", "--data", "tokens", "--engine", engine, "--json"))["results"][0]
        for engine in ("integer", "simulated")
    )
    assert integer["tokens"] == simulated["tokens"]
    assert 0 < abs(integer["perplexity"] / simulated["perplexity"] - 1) < 1e-3


@pytest.mark.parametrize("name", [f"run-{precision}" for precision in RUNS])
def test_a_run_goes_on_with_the_losses_that_it_had(name, recorded, osp):
    folder, expected = recorded
    expected = expected["runs"][name]
    measured = perplexity(osp, f"{name}/step-8")
    assert measured == pytest.approx(expected["perplexity"], rel=LOSS[name])
    before = metrics(folder / name)
    osp("train", name.replace("run-", "") + ".toml", "--out", name, "--resume")
    after = metrics(folder / name)
    # The log as it was up to the checkpoint, and the steps behind it once more.
    place = next(i for i, line in enumerate(before) if line["kind"] == "step" and line["step"] == 8)
    assert after[: place + 1] == before[: place + 1]
    seconds = [
        [line["seconds"] for line in log[place + 1 :] if line["kind"] == "step"] for log in (before, after)
    ]
    assert len(seconds[1]) == 4 and seconds[0] != seconds[1], "steps were taken, not their lines kept"
    for kind, wanted in (("step", "losses"), ("validation", "validation")):
        losses = {str(line["step"]): line["loss"] for line in after if line["kind"] == kind}
        assert losses == pytest.approx(expected[wanted], rel=LOSS[name])
    assert (folder / name / "model" / "model.safetensors").exists()


def test_a_run_goes_on_with_shards_that_lie_elsewhere_and_for_longer(recorded, osp):
    folder, expected = recorded
    (folder / "tokens").rename(folder / "moved")
    more = ["--set", "data.path=moved", "--set", "train.steps=14"]
    osp("train", "bf16.toml", "--out", "run-bf16", "--resume", *more)
    losses = {line["step"]: line["loss"] for line in metrics(folder / "run-bf16") if line["kind"] == "step"}
    assert sorted(losses) == list(range(1, 15))
    # The schedule is that of 14 steps from here on; the next loss comes before it can tell.
    assert losses[9] == pytest.approx(expected["runs"]["run-bf16"]["losses"]["9"], rel=LOSS["run-bf16"])


@pytest.mark.parametrize("name", [*FOLDERS, "panels"])
def test_a_quantized_folder_gives_the_numbers_that_it_gave(name, recorded, osp):
    _, expected = recorded
    expected = expected["folders"][name]
    scores = osp("score", name, "--requests", "requests.jsonl").splitlines()
    # The engine's logits and texts have the same bits on every machine, as long as kEngineNumerics is 2; the
    # logarithm of their sum is the tensor library's, whose last bits differ between makes of CPU.
    tolerance = SIMULATED if name == "mxfp4" else INTEGER
    for found, wanted in zip(map(json.loads, scores), map(json.loads, expected["scores"]), strict=True):
        assert found.keys() == wanted.keys() and found["tokens"] == wanted["tokens"]
        if "log_likelihood" in wanted:
            assert found["log_likelihood"] == pytest.approx(wanted["log_likelihood"], rel=tolerance)
            assert found["greedy"] == wanted["greedy"]
        elif name != "mxfp4":
            assert found == wanted
    assert perplexity(osp, name) == pytest.approx(expected["perplexity"], rel=tolerance)
    answer = json.loads(osp("generate", name, "--prompt", "the", "--max-tokens", "24", "--json"))
    assert answer["text"] == expected["text"]
    assert ("integer engine" in answer["engine"]) == (name != "mxfp4")


@pytest.mark.parametrize("name", FOLDERS)
def test_the_numbers_that_codes_stand_for_are_those_that_were_stored(name, recorded, osp):
    folder, expected = recorded
    assert weights_of(osp, folder, name) == expected["folders"][name]["weights"]


def test_every_version_has_every_kind():
    assert "0.1.0" in VERSIONS
    for version in VERSIONS:
        names = {path.name for path in (RECORDED / version).iterdir()}
        assert names >= {"tokens", "panels", "expected.json", *FOLDERS, *(f"run-{p}" for p in RUNS)}
