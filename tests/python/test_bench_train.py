"""`osp bench train`: it runs both sides and reports what it says; how fast they are is not tested."""

import json


def test_both_sides_are_timed_at_the_given_context(run_program):
    words = ["osp", "bench", "train", "--model", "demo", "--context", 64, "--steps", 1, "--repetitions", 1]
    printed = run_program([*words, "--peer-mode", "eager", "--json", "--quiet"], timeout=600).stdout
    result = json.loads(printed)
    assert result["model"] == "demo" and result["context"] == 64 and result["parameters"] == 7340045
    for side in ["", "peer_"]:
        assert result[f"{side}tokens_per_s"] > 0 and result[f"{side}peak_memory_bytes"] > 0
        assert result[f"{side}cpu_seconds"] > 0 and result[f"{side}page_faults"] >= 0
    # The peer has the fastest settings of those that were tried.
    trials = result["peer_trials"]
    assert len(trials) >= 4 and {trial["mode"] for trial in trials} == {"eager"}
    fastest = max(trials, key=lambda trial: trial["tokens_per_s"])
    assert all(result["peer"][key] == fastest[key] for key in ("mode", "settings", "micro_batches"))
    assert result["peer"]["versions"]["torch"]
    assert result["ratio"] == result["tokens_per_s"] / result["peer_tokens_per_s"]
    assert 0 < result["share_of_product_rate"] < 1 and result["command"].startswith("osp bench train")


def test_the_profile_adds_up_to_the_step(run_program):
    words = ["osp", "bench", "train", "--model", "demo", "--context", 64, "--steps", 1, "--profile"]
    result = json.loads(run_program([*words, "--json", "--quiet"], timeout=600).stdout)
    names = {each["name"] for each in result["operators"]}
    assert {"aten::mm", "osp::rms_norm", "osp::swiglu", "osp::rope", "osp::optimizer"} <= names
    # The step that is profiled is the only one that is timed.
    assert (
        0.7 * result["step_seconds"]
        < sum(each["seconds"] for each in result["operators"])
        <= result["step_seconds"]
    )
    assert "everything else" in run_program([*words, "--quiet"], timeout=600).stdout


def test_a_context_that_does_not_divide_the_step_is_refused(run_program):
    result = run_program(
        ["osp", "bench", "train", "--model", "demo", "--context", 100, "--alone"], check=False
    )
    assert result.returncode == 2 and "--context 100" in result.stderr


def test_settings_change_what_is_timed_alone(run_program):
    words = ["osp", "bench", "train", "--model", "demo", "--context", 64, "--steps", 1, "--set",
             "model.layers=2", "--set", "train.batch_tokens=512"]  # fmt: skip
    result = json.loads(run_program([*words, "--alone", "--quiet"], timeout=600).stdout)
    assert result["batch_tokens"] == 512 and 0 < result["optimizer_seconds"] < result["step_seconds"]
    assert 0 < result["data_seconds"] < result["step_seconds"]
    assert result["parameters"] < 7340045 * 0.7
    refused = run_program(words, check=False)
    assert refused.returncode == 2 and "--set" in refused.stderr and "--alone" in refused.stderr
