"""scripts/torture.sh at its smallest: every kind of fault once or twice, half a minute."""

import json
import os
import subprocess

import pytest


def torture(repo_root, build, tmp_path, *arguments):
    """(the finished process, torture.json)"""
    result = subprocess.run(
        [repo_root / "scripts" / "torture.sh", "--smoke", "--out", tmp_path / "out", *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OSP_BUILD": str(build), "TMPDIR": str(tmp_path)},
    )
    assert (tmp_path / "out" / "torture.json").exists(), result.stdout + result.stderr
    return result, json.loads((tmp_path / "out" / "torture.json").read_text())


def test_runs_survive_every_kind_of_fault(repo_root, osp_build, tmp_path):
    result, found = torture(repo_root, osp_build, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert not found["failed"] and found["faults"]["SIGKILL at a random time"]["survived"] >= 2
    # What this machine does not allow is said.
    for reason in found["skipped"].values():
        assert reason in result.stdout


# A program with a fault of its own, as a script around osp: each must be found.
BROKEN = {
    "loses the newest checkpoint": (
        'case "$*" in *--resume*) n=$(ls -d "$run"/step-* 2>/dev/null | sort -V | tail -1); '
        '[ -z "$n" ] || rm -rf "$n";; esac\nexec {osp} "$@"'
    ),
    "changes a weight after a resume": (
        '{osp} "$@"; status=$?\ncase "$*" in *--resume*) f="$run"/model/model.safetensors; '
        'if [ -f "$f" ]; then truncate -s -1 "$f"; printf x >> "$f"; fi;; esac\nexit $status'
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_program_that_does_not_survive_is_found(repo_root, osp_build, tmp_path, fault):
    (tmp_path / "broken").mkdir()
    program = tmp_path / "broken" / "osp"
    find_run = 'run=; last=; for word; do [ "$last" != --out ] || run=$word; last=$word; done\n'
    program.write_text("#!/bin/bash\n" + find_run + BROKEN[fault].format(osp=osp_build / "osp") + "\n")
    program.chmod(0o755)
    result, found = torture(repo_root, program.parent, tmp_path, "--only", "life_of_kills")
    assert result.returncode == 1, result.stdout + result.stderr
    assert found["failed"] and "FAILED" in result.stderr
