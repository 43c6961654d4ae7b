"""osp bench optim on the smallest model: what it prints, and that both sides make the same update."""

import json
import sys

import pytest


@pytest.fixture(scope="module")
def result(run_program, repo_root):
    peer = repo_root / "bench" / "peers" / "optim_peer.py"
    return json.loads(
        run_program(
            [
                "osp",
                "bench",
                "optim",
                "--model",
                "demo",
                "--optimizers",
                "osp",
                "--optimizers",
                "adam",
                "--optimizers",
                "adafactor",
                "--steps",
                "1",
                "--batch-tokens",
                "65536",
                "--repetitions",
                "1",
                "--python",
                sys.executable,
                "--peer",
                peer,
                "--json",
                "--quiet",
            ]
        ).stdout
    )


def groups(result, optimizer):
    (found,) = [o for o in result["optimizers"] if o["optimizer"] == optimizer]
    assert found["startup_seconds"] > 0 and found["peak_memory_bytes"] > 0
    return {group["group"]: group for group in found["groups"]}


def test_every_group_is_timed_beside_its_peers(result):
    assert {"model", "steps", "repetitions", "threads"} <= result.keys()
    osp, adam = groups(result, "osp"), groups(result, "adam")
    assert [p["peer"] for p in osp["muon"]["peers"]] == ["batched-muon", "torch-muon"]
    assert [p["peer"] for p in osp["adam"]["peers"]] == ["fused-adamw"]
    assert osp["gain"]["peers"] == []
    for group in (osp["muon"], osp["adam"], *adam.values()):
        for peer in group["peers"]:
            assert group["seconds"] > 0 and peer["seconds"] > 0
            assert peer["cpu_ratio"] == peer["cpu_seconds"] / group["cpu_seconds"]
            assert peer["ratio"] == peer["ratios"][0] == peer["seconds"] / group["seconds"]


def test_weights_and_state_take_what_the_formula_says(result):
    for optimizer in result["optimizers"]:
        for group in (optimizer, *optimizer["groups"]):
            # Counters of steps are not in the formula.
            assert group["bytes_per_parameter"] == pytest.approx(
                group["formula_bytes_per_parameter"], rel=0.1
            )
    for group, expected in (("muon", 8), ("adam", 12)):
        found = groups(result, "osp")[group]
        for side in (found, *found["peers"]):
            assert side["bytes_per_parameter"] == pytest.approx(expected, rel=1e-5)
    assert groups(result, "adafactor")["adafactor"]["bytes_per_parameter"] < 4.2


def test_throughput_adds_the_step_to_forward_and_backward(result):
    osp, adam, adafactor = result["optimizers"]
    for optimizer in (osp, adam, adafactor):
        assert optimizer["step_seconds"] == pytest.approx(sum(g["seconds"] for g in optimizer["groups"]))
        seconds = 65536 * optimizer["seconds_per_token"] + optimizer["step_seconds"]
        assert optimizer["tokens_per_s"] == pytest.approx(65536 / seconds)
        assert optimizer["relative_throughput"] == optimizer["tokens_per_s"] / adam["tokens_per_s"]
    for point in result["overhead"]:
        passes = point["batch_tokens"] * adam["seconds_per_token"]
        expected = (osp["step_seconds"] - adam["step_seconds"]) / (passes + adam["step_seconds"])
        assert point["overhead"] == pytest.approx(expected)
        assert point["model"] == 5 * 256 / point["batch_tokens"]


def test_updates_agree_within_bf16(result):
    for peer in groups(result, "osp")["muon"]["peers"]:
        # Both round the same products to bf16 at other places; see test_optimizers and newton_schulz_test.
        assert 0 < peer["largest_difference"] < 0.07
        assert peer["error"] < 1.1 * peer["peer_error"]


def test_an_unknown_optimizer_is_refused(run_program):
    found = run_program(["osp", "bench", "optim", "--optimizers", "sgd"], check=False)
    assert found.returncode == 2 and "sgd" in found.stderr and "adam" in found.stderr
