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
    assert len(commands) == 18
    for command in commands:
        assert "  --quiet\n" in command and "  --json\n" in command, command


def test_readme_names_every_command(run_program, repo_root):
    readme = (repo_root / "README.md").read_text()
    for line in run_program(["osp", "--interface"]).stdout.splitlines():
        if not line.startswith(" "):
            assert f"\n| `osp {line}` |" in readme, line


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


@pytest.mark.parametrize(
    "command, former, now",
    [
        ("quantize", "--samples", "--windows"),
        ("quantize", "--max-tokens", "--data-tokens"),
        ("eval", "--samples", "--save-items"),
        ("eval", "--max-tokens", "--data-tokens"),
        ("analyze", "--max-tokens", "--data-tokens"),
    ],
)
def test_a_former_name_works_warns_once_and_is_hidden(run_program, tmp_path, command, former, now):
    needed = [command, tmp_path / "no-model", "--data", "x", *(["--report"] if command == "quantize" else [])]

    def messages(option):
        result = run_program(["osp", *needed, option, "1"], check=False)
        assert result.returncode == 2, result.stderr
        return result.stderr.splitlines()

    warning = f"warning: {former} is deprecated; use {now}"
    assert messages(former) == [warning, *messages(now)]
    assert former not in run_program(["osp", command, "--help"]).stdout
    assert now in run_program(["osp", command, "--help"]).stdout
    both = run_program(["osp", *needed, former, "1", now, "1"], check=False)
    assert both.returncode == 2 and "excludes" in both.stderr


def test_a_former_name_sets_the_option(run_program):
    """Its value is checked like the new name's, which the message shows."""
    result = run_program(["osp", "quantize", "x", "--samples", "0"], check=False)
    assert result.returncode == 2
    assert result.stderr.splitlines()[1] == (
        "error: osp quantize: --windows is 0, expected an integer from 1 to 1048576 "
        "(number of calibration windows)"
    )


@pytest.mark.parametrize(
    "words, said",
    [
        (["generate", "x", "--prompt", "y", "--top-k", "many"], '--top-k is "many", expected an integer'),
        (["quantize", "x", "--cache-clip", "2"], "--cache-clip is 2, expected a number from 0.1 to 1"),
        (["quantize", "x", "--calibration-type", "fp16"], "expected one of auto, bf16, fp32"),
        (["generate", "x"], "--prompt is required"),
    ],
)
def test_a_wrong_value_names_the_command_the_option_and_what_is_expected(run_program, words, said):
    result = run_program(["osp", *words], check=False)
    assert result.returncode == 2 and said in result.stderr and f"osp {words[0]}: " in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_former_name_is_never_suggested(run_program):
    result = run_program(["osp", "quantize", "x", "--sampels", "3"], check=False)
    assert result.returncode == 2 and "--samples" not in result.stderr


def test_an_option_that_may_be_repeated_is_accepted_twice(run_program):
    result = run_program(["osp", "generate", "x", "--prompt", "y", "--stop", "a", "--stop", "b"], check=False)
    assert "x: no config.json" in result.stderr


def test_an_option_without_the_one_that_it_needs_is_refused(run_program):
    result = run_program(["osp", "bench", "optim", "--updates", "x", "--optimizers", "none"], check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: osp bench optim: --updates requires --alone;")


@pytest.mark.parametrize(
    "command, option, note",
    [
        ("generate", "--prompt TEXT", "(required)"),
        ("generate", "--stop TEXT", "(may be repeated)"),
        ("bench optim", "--updates FILE", "(needs --alone)"),
        ("bench optim", "--steps N", "(at least 1; default 3)"),
        ("quantize", "--memory X", "(0.001 to 65536; default 4 GiB)"),
        ("quantize", "--seed N", "(default 0)"),
    ],
)
def test_help_says_what_an_option_accepts(run_program, command, option, note):
    help_text = " ".join(run_program(["osp", *command.split(), "--help"]).stdout.split())
    assert re.search(re.escape(f" {option} ") + r"[^()]*(\([^()]*\))", help_text)[1] == note


def test_help_is_grouped(run_program):
    help_text = run_program(["osp", "quantize", "--help"]).stdout
    headings = [line[:-1] for line in help_text.splitlines() if re.fullmatch(r"[A-Z]\w+:", line)]
    assert headings == [
        "Positionals",
        "Method",
        "Calibration",
        "SpinQuant",
        "Output",
        "Measuring",
        "General",
    ]


def test_an_unknown_option_without_a_near_name_is_named(run_program):
    result = run_program(["osp", "quantize", "x", "--zzzzzzz", "3"], check=False)
    assert result.returncode == 2
    assert (
        result.stderr == "error: osp quantize: unknown option --zzzzzzz; `osp quantize --help` lists them\n"
    )
