"""scripts/gpu_check.sh on a CPU: its parts run to their end, and a device that computes something else fails.
What it says of a GPU was never tried here."""

import importlib
import json
import os
import subprocess

from conftest import ROOT

SCRIPT = ROOT / "scripts" / "gpu_check.sh"


def gpu_check(*words, **environment):
    return subprocess.run(
        [SCRIPT, "--device", "cpu", "--small", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def test_every_part_runs_to_its_end(tmp_path, osp_build):
    result = gpu_check("--out", tmp_path / "found.json", "--peak", 1, OSP=str(osp_build / "osp"))
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["failed"] == [] and found["left_out"] == []
    rows = {row[0]: row[1:] for row in found["rows"]}
    assert rows["demo-osp: losses of 20 steps, cpu beside cpu"] == ["0.0e+00 nats", "equal enough"]
    rate, mfu = rows["demo, 2,048 tokens a step: osp"]
    # 4.6e7 operations a token (6 for each weight of a product, and attention), of a peak of 1 TFLOP/s.
    share = float(mfu.removeprefix("MFU ").removesuffix(" %")) / 100
    assert 3e7 < share * 1e12 / float(rate.split()[0].replace(",", "")) < 6e7
    assert rows["demo, 4,096 tokens a step: OSP's optimizer, Adam's"][1].endswith("%")
    assert "| demo: osp / PyTorch |" in result.stdout


def test_a_device_that_computes_something_else_fails(tmp_path, osp_build):
    other = tmp_path / "osp"
    program = osp_build / "osp"
    changed = f'case "$*" in *-osp-device*) exec {program} "$@" --set run.seed=7 ;; esac'
    other.write_text(f'#!/usr/bin/env bash\n{changed}\nexec {program} "$@"\n')
    other.chmod(0o755)
    result = gpu_check("losses", OSP=str(other))
    assert result.returncode == 1
    assert "FAILED: demo-osp: losses of 20 steps, cpu beside cpu" in result.stderr
    assert "| demo-adam: losses of 20 steps, cpu beside cpu | 0.0e+00 nats | equal enough |" in result.stdout


def test_what_does_not_fit_is_named_and_the_rest_kept(tmp_path, osp_build):
    program, slow = osp_build / "osp", tmp_path / "osp"
    slow.write_text(f'#!/usr/bin/env bash\ncase "$*" in *-osp*) sleep 60 ;; esac\nexec {program} "$@"\n')
    slow.chmod(0o755)
    result = gpu_check("losses", "--minutes", 0.5, OSP=str(slow))
    assert result.returncode == 1 and "losses left out: 0.5 minutes are over" in result.stderr
    assert "| demo-adam: losses of 20 steps" in result.stdout and "demo-osp" not in result.stdout


def test_the_settings_of_large_models_are_accepted(monkeypatch, tmp_path, run_program):
    """Dry runs of what a GPU would train: nothing but this machine's memory stops them."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    gpu_check = importlib.import_module("gpu_check")
    data = gpu_check.random_tokens(tmp_path / "tokens", 32768, 1 << 17)
    for name in ("125m", "1.4b-4-layers"):
        size = gpu_check.SIZES[name]
        for more in ({}, {"optim.name": "adam"}):
            settings = {**gpu_check.short_run(20, data), **size["set"], "train.batch_tokens": 65536, **more}
            words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
            result = run_program(["osp", "train", ROOT / size["recipe"], "--dry-run", *words], check=False)
            assert result.returncode == 0 or "this machine has" in result.stderr, result.stderr
