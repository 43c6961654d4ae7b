"""The kind of fault: an output path is judged after the work. Every option that names an output, with names
that end in a slash, lead through links, cannot be written, or hold something already."""

import json
import os
import subprocess

import pytest
from train_fixture import one_thread, write_recipe

FOLDERS = [
    "train",
    "tokenize",
    "quantize",
    "quantize-all",
    "export",
    "export-gptq",
    "export-panels",
    "average",
]
FILES = ["export-gguf", "report", "report-summary", "eval-out", "eval-table", "eval-items"]

OPTIONAL = ["train", "report-summary", "eval-out", "eval-table", "eval-items"]  # "" is as if omitted
ENDING = {"eval-table": ".md"}  # by which it chooses what to write


@pytest.fixture
def osp(osp_build, tiny_run, tiny_quantized, questions, train_tokens, repo_root, tmp_path):
    """osp(name, out, *more) -> CompletedProcess of the command that writes `out`."""
    recipe = write_recipe(tmp_path / "osp.toml", train_tokens)
    text = tmp_path / "text.txt"
    text.write_text("the dog sees a tree.\n" * 400)
    model, tokenizer = tiny_run / "model", repo_root / "recipes" / "gcide-4096"
    tasks = ["eval", model, "--tasks", "arc_easy", "--data", questions]
    table = {
        "train": ["train", recipe, "--out"],
        "tokenize": ["tokenize", text, "--tokenizer", tokenizer, "--out"],
        "quantize": ["quantize", model, "--method", "rtn", "--out"],
        "quantize-all": [
            "quantize",
            model,
            "--method",
            "all",
            "--bits",
            "4-16-16",
            "--windows",
            "2",
            "--spin-steps",
            "1",
            "--calibration",
            text,
            "--out",
        ],
        "average": ["average", tiny_run / "step-4", tiny_run / "step-6", "--out"],
        "export": ["export", model, "--format", "hf", "--out"],
        "export-gguf": ["export", model, "--format", "gguf", "--out"],
        "export-gptq": ["export", tiny_quantized, "--format", "gptq", "--out"],
        "export-panels": ["export", tiny_quantized, "--format", "panels", "--out"],
        "eval-out": [*tasks, "--out"],
        "eval-table": [*tasks, "--table"],
        "eval-items": [*tasks, "--save-items"],
        "report": ["report", tiny_run, "--out"],
        "report-summary": ["report", tiny_run, "--out", tmp_path / "page.html", "--summary"],
    }

    def run(name, out, *more):
        words = [osp_build / "osp", *table[name], out, *more]
        return subprocess.run(
            [str(w) for w in words], capture_output=True, text=True, env=one_thread(), timeout=240
        )

    return run


def left(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("end", ["/", "//"])
def test_a_slash_at_the_end_is_no_part_of_the_name(osp, tmp_path, name, end):
    folder = tmp_path / "results"
    result = osp(name, f"{folder}/out{end}")
    assert result.returncode == 0, result.stderr
    assert left(folder) == ["out"] and any((folder / "out").iterdir())


@pytest.mark.parametrize("name", FOLDERS + FILES)
def test_a_link_is_followed_and_its_target_filled(osp, tmp_path, name):
    folder = tmp_path / "results"
    folder.mkdir()
    link, target = (word + ENDING.get(name, "") for word in ("link", "target"))
    (folder / link).symlink_to(target)
    result = osp(name, folder / link)
    assert result.returncode == 0, result.stderr
    assert left(folder) == [link, target]
    assert (folder / link).is_symlink()


@pytest.mark.parametrize("name", FOLDERS + FILES)
def test_what_can_never_be_written_is_refused_before_work(osp, tmp_path, name):
    # A read-only place, a name that is too long, a file in the way of a folder above.
    (tmp_path / "file").write_text("")
    for out in ("/proc/out", tmp_path / ("n" * 250), tmp_path / "file" / "out"):
        if name == "train" and "nnn" in str(out):
            continue  # writes inside its folder, and no temporary name beside it
        result = osp(name, f"{out}{ENDING.get(name, '')}")
        assert result.returncode in (2, 5), result.stderr
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert osp(name, "").returncode == 2 or name in OPTIONAL


@pytest.mark.parametrize("name", FILES)
def test_no_device_or_folder_is_replaced_by_a_file(osp, tmp_path, name):
    for out in ("/dev/null", "/dev/stdout", tmp_path, f"{tmp_path}/new/"):
        assert osp(name, out).returncode == 2
    assert not os.path.isfile("/dev/null")


@pytest.mark.parametrize(
    "name", ["quantize", "export", "export-gguf", "export-gptq", "export-panels", "tokenize", "average"]
)
def test_something_that_exists_is_refused_before_work(osp, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "note").write_text("mine")
    result = osp(name, tmp_path / "out")
    assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert left(tmp_path / "out") == ["note"]


def test_resume_goes_on_with_or_without_the_slash(osp_build, tiny_run, tmp_path):
    """A stop in the middle, then the same name spelled in both ways."""
    out = tmp_path / "q"
    command = [osp_build / "osp", "quantize", tiny_run / "model", "--method", "rtn", "--out"]
    limit = ["bash", "-c", 'ulimit -f 40; exec "$@"', "bash"]
    for spelling in (f"{out}/", f"{out}"):
        assert subprocess.run([*limit, *command, spelling], capture_output=True).returncode == 5
        assert not out.exists()
        result = subprocess.run([*command, f"{out}/", "--resume"], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert json.loads((out / "quantize.json").read_text())["layers"]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["q"]
        subprocess.run(["rm", "-r", out], check=True)


def test_two_options_cannot_name_one_file(osp, tmp_path):
    result = osp("report-summary", tmp_path / "page.html")
    assert result.returncode == 2 and "--summary" in result.stderr
