"""The commands and options equal tests/interface.txt, so that a change of interface is seen in review.

To accept a change: build/release/osp --interface > tests/interface.txt
"""

import os
import re
import subprocess

import pytest


def test_commands_and_options_equal_the_checked_in_list(run_program, repo_root):
    printed = run_program(["osp", "--interface"]).stdout
    assert printed == (repo_root / "tests" / "interface.txt").read_text()


def test_every_command_has_the_common_options(run_program):
    printed = run_program(["osp", "--interface"]).stdout
    commands = re.split(r"^(?=\S)", printed, flags=re.M)[1:]
    assert len(commands) == 13
    for command in commands:
        assert "  --quiet\n" in command and "  --json\n" in command, command


def test_readme_names_every_command(run_program, repo_root):
    readme = (repo_root / "README.md").read_text()
    for line in run_program(["osp", "--interface"]).stdout.splitlines():
        if not line.startswith(" "):
            assert f"osp {line}" in readme, line


def test_unknown_option_names_the_nearest_and_exits_with_2(run_program):
    result = run_program(["osp", "train", "x.toml", "--resum"], check=False)
    assert result.returncode == 2
    assert "--resum" in result.stderr and "--resume" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_unknown_command_names_the_nearest_and_exits_with_2(run_program):
    result = run_program(["osp", "trian"], check=False)
    assert result.returncode == 2 and "train" in result.stderr


def test_help_exits_with_0(run_program):
    assert "Exit status" in run_program(["osp", "--help"]).stdout
    assert "--bits" in run_program(["osp", "eval", "--help"]).stdout
    assert "--repetitions" in run_program(["osp", "bench", "train", "--help"]).stdout


@pytest.mark.parametrize("words", [["bench"], ["bench", "tran"], ["bench", "train", "--step", "3"]])
def test_wrong_use_of_a_part_names_the_command_and_exits_with_2(run_program, words):
    result = run_program(["osp", *words], check=False)
    assert result.returncode == 2 and "osp bench" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_an_unknown_instruction_set_is_refused(run_program):
    environment = dict(os.environ, OSP_ISA="avx1024")
    result = run_program(["osp", "--help"], check=False, env=environment)
    assert result.returncode == 2 and "avx512" in result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full to play a full disk")
def test_a_result_that_cannot_be_written_is_an_error(osp_build, repo_root):
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [osp_build / "osp", "train", repo_root / "recipes" / "osp-1.4b.toml", "--dry-run", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert result.returncode == 5 and "stdout" in result.stderr
