"""The Python programs of examples/ and the snippets of docs/python.md run, on tiny sizes."""

import os
import re
import subprocess
import sys

from transformers import AutoModelForCausalLM, LlamaForCausalLM


def run(repo_root, folder, *words):
    environment = os.environ | {"PYTHONPATH": str(repo_root / "python"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_trainer_example_saves_a_plain_llama(repo_root, tmp_path):
    output = run(repo_root, tmp_path, repo_root / "examples" / "trainer_osp.py", tmp_path / "out", 6)
    assert "excess kurtosis at step 5" in output
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model")) is LlamaForCausalLM


def test_the_fsdp2_example_shares_the_matrices(repo_root, tmp_path):
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    output = run(repo_root, tmp_path, *words, repo_root / "examples" / "loop_fsdp2.py", 2)
    counts = [int(n) for n in re.findall(r"step 1: loss \S+, (\d+) matrices", output)]
    assert len(counts) == 2 and sum(counts) == 16 and min(counts) > 4


def test_the_watch_example_shows_both_models(repo_root, tmp_path):
    output = run(repo_root, tmp_path, repo_root / "examples" / "watch_kurtosis.py", 10)
    assert re.findall(r"^(\w+) +step +(\d+)", output, re.MULTILINE) == [
        (name, str(step)) for name in ("adam", "osp") for step in range(0, 10, 2)
    ]


def test_the_snippets_of_the_document_run_in_their_order(repo_root, tmp_path):
    text = (repo_root / "docs" / "python.md").read_text()
    snippets = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(snippets) == 4
    (tmp_path / "snippets.py").write_text("\n".join(snippets))
    output = run(repo_root, tmp_path, "snippets.py")
    assert "lookup table" in output and (tmp_path / "out" / "config.json").exists()
