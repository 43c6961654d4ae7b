"""A slash at the end of a folder's name changes nothing, for every command that reads a folder."""

import shutil
import subprocess

import pytest
from train_fixture import checkpoints, one_thread, state_hash, write_recipe


@pytest.fixture
def words(tiny_run, train_tokens, repo_root, tmp_path):
    """words(name, end, out) -> arguments of `osp` with `end` behind every folder that is read."""
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    text = tmp_path / "text.txt"
    text.write_text("the dog sees a tree.\n" * 400)

    def make(name, end, out):
        model, tokens = f"{tiny_run / 'model'}{end}", f"{train_tokens}{end}"
        data = ["--data", tokens, "--data-tokens", "256", "--json"]
        return {
            "train": ["train", recipe, "--set", f"data.path={tokens}", "--out", out],
            "train-init": ["train", recipe, "--init-from", f"{tiny_run / 'step-4'}{end}", "--out", out],
            "tokenize": ["tokenize", text, "--tokenizer", f"{repo_root / 'recipes' / 'gcide-4096'}{end}",
                         "--out", out],
            "quantize": ["quantize", model, "--method", "gptq", "--calibration", tokens, "--windows", "2",
                         "--out", out],
            "eval": ["eval", model, *data],
            "eval-run": ["eval", f"{tiny_run}{end}", *data],
            "analyze": ["analyze", model, *data],
            "generate": ["generate", model, "--prompt", "the dog", "--max-tokens", "4"],
            "export": ["export", model, "--format", "hf", "--out", out],
            "average": ["average", f"{tiny_run / 'step-4'}{end}", f"{tiny_run / 'step-6'}{end}",
                        "--out", out],
            "report": ["report", f"{tiny_run}{end}", "--out", f"{out}.html"],
        }[name]  # fmt: skip

    return make


COMMANDS = ["train", "train-init", "tokenize", "quantize", "eval", "eval-run", "analyze", "generate",
            "export", "average", "report"]  # fmt: skip


def weights_below(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".safetensors", ".bin")
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_a_slash_behind_a_folder_that_is_read_changes_nothing(osp_build, words, tmp_path, name):
    results = []
    for number, end in enumerate(["", "/", "//"]):
        out = tmp_path / f"out-{number}"
        command = [str(word) for word in [osp_build / "osp", *words(name, end, out)]]
        result = subprocess.run(command, capture_output=True, text=True, env=one_thread(), timeout=240)
        assert result.returncode == 0, result.stderr
        printed = result.stdout.replace("//", "/").replace("/out-", "").count("\n")
        results.append((printed, weights_below(out) if out.exists() else {}))
    assert results[0] == results[1] == results[2]


def test_a_run_is_resumed_by_its_name_with_a_slash(osp_build, tiny_run, train_tokens, tmp_path):
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    shutil.rmtree(run / "step-6")
    command = [osp_build / "osp", "train", recipe, "--quiet", "--out", f"{run}/"]
    for how in (["--resume"], ["--resume-from", "step-4/"]):
        assert subprocess.run([*command, *how], env=one_thread(), timeout=120).returncode == 0
        assert checkpoints(run)[-1] == 6
        assert state_hash(run, 6) == state_hash(tiny_run, 6)
