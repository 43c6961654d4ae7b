"""Benchmarks and the lm-eval adapter against lm-eval's own HFLM (transformers, fp32, CPU) on the same
weights.

OSP_LONG_TESTS=1 compares 200 items of every task for the published model too, which takes half an hour;
without it a few, and 200 only for a small random model. Every comparison prints its largest difference.
"""

import copy
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

# Before anything of the hub is imported: nothing here may reach for the network.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaRMSNorm

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "python"), str(ROOT / "scripts")]
import measure_equality  # noqa: E402
from measure_equality import CHOICES, GENERATION, instances, judge, pairs_of  # noqa: E402
from osp.lm_eval_adapter import OspLM  # noqa: E402
from test_gguf import smollm2_file  # noqa: E402
from test_gguf_model import random_llama, smollm2  # noqa: E402, F401 (smollm2 is a fixture)

LONG = os.environ.get("OSP_LONG_TESTS") == "1"
# In nats against the model in fp64. Against transformers in fp32 it is relative to a log-likelihood (absolute
# below 1), because that itself is up to 7e-4 nats away from fp64: it rounds the angles of the rotary
# embedding to fp32, and lm-eval adds a hundred terms in fp32.
TOLERANCE = 1e-4


def tolerance(value: float) -> float:
    return TOLERANCE * max(1.0, abs(value))


def fast_tokenizer(file: Path, end: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token=end, pad_token=end)


@pytest.fixture(scope="module")
def bench(shared_data):
    if not (shared_data / "bench").is_dir():
        pytest.skip(f"no benchmarks at {shared_data}/bench; put them there to run this")
    return shared_data / "bench"


@pytest.fixture(scope="module")
def random_folder(tmp_path_factory):
    """A random Llama with the demo's tokenizer, as transformers and lm-eval load it."""
    folder = tmp_path_factory.mktemp("lm-eval") / "model"
    random_llama(vocab_size=4096, max_position_embeddings=2048).save_pretrained(folder)
    fast_tokenizer(ROOT / "recipes" / "gcide-4096" / "tokenizer.json", "<|endoftext|>").save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def random_peer(random_folder):
    return HFLM(pretrained=str(random_folder), device="cpu", dtype="float32", batch_size=16)


def rms_norm(module: LlamaRMSNorm, x: torch.Tensor) -> torch.Tensor:
    return module.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon))


def in_fp64(llama: torch.nn.Module) -> torch.nn.Module:
    """The model in fp64, also where transformers always computes in fp32: norms and rotary angles."""
    exact = copy.deepcopy(llama).double()
    size = exact.config.head_dim
    rates = exact.config.rope_parameters["rope_theta"] ** (
        -torch.arange(0, size, 2, dtype=torch.float64) / size
    )

    def rotary(x, position_ids):
        angles = position_ids[:, :, None].double() * rates
        angles = torch.cat((angles, angles), -1)
        return angles.cos(), angles.sin()

    exact.model.rotary_emb.forward = rotary
    for module in exact.modules():
        if isinstance(module, LlamaRMSNorm):
            module.forward = functools.partial(rms_norm, module)
    return exact


@pytest.fixture(scope="module")
def smollm2_peer(smollm2, shared_data):  # noqa: F811
    tokenizer = fast_tokenizer(shared_data / "tokenizers" / "smollm2" / "tokenizer.json", "<|im_end|>")
    return HFLM(pretrained=smollm2, tokenizer=tokenizer, batch_size=4)


def samples_of(run_program, folder, model, bench, tasks, limit, *options) -> dict[str, list[dict]]:
    file = folder / "samples.jsonl"
    run_program(
        [
            "osp",
            "eval",
            model,
            "--data",
            bench,
            "--tasks",
            ",".join(tasks),
            "--limit",
            limit,
            "--save-items",
            file,
            "--quiet",
            *options,
        ],
        timeout=7200,
    )
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return {task: [line for line in lines if line["task"] == task] for task in tasks}


def compare(task: str, lines: list[dict], peer: HFLM, capsys) -> None:
    """Every choice's log-likelihood and every item's mark, against the peer's."""
    pairs = [pair for line in lines for pair in pairs_of(line)]
    start = time.perf_counter()
    theirs = [score for score, _ in peer.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)]
    seconds = time.perf_counter() - start
    ours = [score for line in lines for score in line["log_likelihoods"]]
    differences = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    right, at, ties = {"acc": 0, "acc_norm": 0}, 0, 0
    wrong = []
    for line in lines:
        scores = theirs[at : at + len(line["choices"])]
        at += len(scores)
        for name, (mark, margin) in judge(line, scores).items():
            right[name] += mark
            if mark != line[name]:
                # Choices that are the same text are equally likely; rounding decides.
                ties += 1
                if margin > 2 * tolerance(max(scores, key=abs)):
                    wrong.append((line["index"], name, margin))
    n = len(lines)
    with capsys.disabled():
        print(
            f"{task}: {n} items, {len(pairs)} choices, largest difference {max(differences):.2e} (relative "
            f"{max(d / max(1, abs(b)) for d, b in zip(differences, theirs, strict=True)):.2e}); acc "
            f"{sum(line['acc'] for line in lines) / n:.4f} and {right['acc'] / n:.4f}, acc_norm "
            f"{sum(line['acc_norm'] for line in lines) / n:.4f} and {right['acc_norm'] / n:.4f}, "
            f"ties {ties}; lm-eval {seconds:.1f} s"
        )
    assert not wrong
    assert all(d <= tolerance(b) for d, b in zip(differences, theirs, strict=True))


def compare_texts(task: str, lines: list[dict], peer: HFLM, capsys) -> None:
    requests = [
        (line["context"], {"until": list(line["stop"]), "max_gen_toks": line["max_tokens"]}) for line in lines
    ]
    start = time.perf_counter()
    theirs = peer.generate_until(instances("generate_until", requests), disable_tqdm=True)
    equal = sum(line["text"] == text for line, text in zip(lines, theirs, strict=True))
    with capsys.disabled():
        print(f"{task}: {len(lines)} texts, {equal} equal; lm-eval {time.perf_counter() - start:.1f} s")
    assert [line["text"] for line in lines] == theirs


@pytest.mark.parametrize("prompts, limit", [("reference", 200), ("lm-eval", 24)])
def test_log_likelihoods_of_a_random_model_equal_lm_evals(
    prompts, limit, random_folder, random_peer, bench, run_program, tmp_path, capsys
):
    found = samples_of(run_program, tmp_path, random_folder, bench, CHOICES, limit, "--prompts", prompts)
    for task, lines in found.items():
        assert len(lines) == limit
        compare(f"random, {prompts}, {task}", lines, random_peer, capsys)


def test_log_likelihoods_of_a_published_model_are_exact(
    smollm2,  # noqa: F811
    bench,
    shared_data,
    run_program,
    tmp_path,
    capsys,
):
    tokenizer = fast_tokenizer(shared_data / "tokenizers" / "smollm2" / "tokenizer.json", "<|im_end|>")
    exact = HFLM(pretrained=in_fp64(smollm2), tokenizer=tokenizer, batch_size=1)
    found = samples_of(run_program, tmp_path, smollm2_file(), bench, ["mmlu", "piqa"], 24 if LONG else 3)
    for task, lines in found.items():
        pairs = [pair for line in lines for pair in pairs_of(line)]
        theirs = [
            score for score, _ in exact.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
        ]
        ours = [score for line in lines for score in line["log_likelihoods"]]
        largest = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        with capsys.disabled():
            print(f"{task}: {len(pairs)} choices, largest difference from fp64 {largest:.2e}")
        assert largest <= TOLERANCE


@pytest.mark.parametrize("task", CHOICES)
def test_log_likelihoods_of_a_published_model_equal_lm_evals(
    task, smollm2_peer, bench, run_program, tmp_path, capsys
):
    found = samples_of(run_program, tmp_path, smollm2_file(), bench, [task], 200 if LONG else 8)
    compare(f"SmolLM2-135M, {task}", found[task], smollm2_peer, capsys)


def test_texts_of_a_random_model_equal_lm_evals(
    random_folder, random_peer, bench, run_program, tmp_path, capsys
):
    for task, lines in samples_of(run_program, tmp_path, random_folder, bench, GENERATION, 8).items():
        compare_texts(f"random, {task}", lines, random_peer, capsys)


@pytest.mark.parametrize("task, limit", [("trivia_qa", 20 if LONG else 4), ("gsm8k", 8 if LONG else 1)])
def test_texts_of_a_published_model_equal_lm_evals(
    task, limit, smollm2_peer, bench, run_program, tmp_path, capsys
):
    found = samples_of(run_program, tmp_path, smollm2_file(), bench, [task], limit)
    compare_texts(f"SmolLM2-135M, {task}", found[task], smollm2_peer, capsys)


class Parrot:
    """A peer that answers with the request's context, and counts."""

    asked = 0

    def generate_until(self, requests, disable_tqdm):
        self.asked += len(requests)
        return [request.arguments[0] for request in requests]


def test_a_comparison_of_texts_goes_on_where_it_was_and_names_the_unequal():
    lines = [
        {"context": str(i), "text": "other" if i in (1, 4) else str(i), "stop": ["\n"], "max_tokens": 9,
         "index": 10 + i, "correct": i == 0}
        for i in range(6)
    ]  # fmt: skip
    peer = Parrot()
    *_, first = measure_equality.compare_texts(lines[:3], peer, {})
    assert (first["items"], first["equal_texts"], first["unequal_items"], first["equal"]) == (
        3,
        2,
        [11],
        False,
    )
    *_, whole = measure_equality.compare_texts(lines, peer, first)
    assert peer.asked == 6
    assert (whole["items"], whole["equal_texts"], whole["unequal_items"]) == (6, 4, [11, 14])
    assert whole["exact_match_osp"] == 1 / 6 and whole["stop"] == ["\n"]
    assert first["unequal_items"] == [11]


@pytest.fixture
def adapter(random_folder, osp_build):
    model = OspLM(model=str(random_folder), program=str(osp_build / "osp"))
    yield model
    model.close()


def test_the_adapter_answers_as_hflm_does(adapter, random_peer):
    text = "A tree is a tall plant; its wood is used to make houses, ships, and tables. "
    pairs = [("A tree is a", " tall plant"), ("A tree is ", "a plant"), ("", "Without context"), (text, text)]
    asked = instances("loglikelihood", pairs)
    for ours, theirs in zip(adapter.loglikelihood(asked), random_peer.loglikelihood(asked), strict=True):
        assert ours[0] == pytest.approx(theirs[0], abs=TOLERANCE, rel=TOLERANCE / 10) and ours[1] == theirs[1]
    asked = instances("loglikelihood_rolling", [(text,), (text * 150,), ("é",)])  # the second: three windows
    for ours, theirs in zip(
        adapter.loglikelihood_rolling(asked), random_peer.loglikelihood_rolling(asked), strict=True
    ):
        # The long one is a sum of thousands.
        assert ours == pytest.approx(theirs, abs=TOLERANCE, rel=TOLERANCE / 10)
    arguments = [{"until": ["\n", " the "], "max_gen_toks": 24},
                 {"until": "e", "max_gen_toks": 40, "do_sample": False},
                 {"until": [], "max_gen_toks": 7}]  # fmt: skip
    asked = instances(
        "generate_until", [(context, each) for context in ["To run", text] for each in arguments]
    )
    assert adapter.generate_until(asked) == random_peer.generate_until(asked)


def test_the_adapter_names_what_went_wrong(random_folder, osp_build, tmp_path):
    program = str(osp_build / "osp")
    with pytest.raises(RuntimeError, match=r"status 2: .*none"):
        OspLM(model=str(tmp_path / "none"), program=program)
    with pytest.raises(RuntimeError, match="9-9-9"):
        OspLM(model=str(random_folder), bits="9-9-9", program=program)
    with pytest.raises(FileNotFoundError, match="no-such-osp"):
        OspLM(model=str(random_folder), program="no-such-osp")
    with pytest.raises(ValueError, match="pretrained"):
        OspLM(model=str(random_folder), program=program, pretrained="x")
    model = OspLM(model=str(random_folder), program=program)
    with pytest.raises(ValueError, match="do_sample"):
        model.generate_until(instances("generate_until", [("a", {"temperature": 0.7, "do_sample": True})]))
    for _ in range(2):  # and the second time, when the program is gone
        with pytest.raises(RuntimeError, match=r"status 3: .*leave no room"):
            model.generate_until(instances("generate_until", [("a", {"max_gen_toks": 9999})]))


TASK = """
task: own_piqa
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {file}}}}}
validation_split: validation
output_type: multiple_choice
doc_to_text: "Question: {{{{goal}}}}\\nAnswer:"
doc_to_target: label
doc_to_choice: "{{{{[sol1, sol2]}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


def test_lm_evals_command_line_runs_on_the_engine(random_folder, osp_build, bench, tmp_path):
    lines = (bench / "piqa" / "validation.jsonl").read_text().splitlines(keepends=True)[:40]
    (tmp_path / "piqa.jsonl").write_text("".join(lines))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own_piqa.yaml").write_text(TASK.format(file=tmp_path / "piqa.jsonl"))
    environment = dict(os.environ, PYTHONPATH=str(ROOT / "python"), OSP_PROGRAM=str(osp_build / "osp"),
                       HF_HOME=str(tmp_path / "cache"))  # fmt: skip
    results = {}
    for name, arguments in {"osp": f"model={random_folder},bits=16-16-16",
                            "hf": f"pretrained={random_folder},dtype=float32"}.items():  # fmt: skip
        command = [sys.executable, "-m", "osp.lm_eval_adapter", "--model", name, "--model_args", arguments]
        command += ["--tasks", "own_piqa", "--include_path", tmp_path / "tasks", "--device", "cpu"]
        command += ["--output_path", tmp_path / name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        (file,) = (tmp_path / name).rglob("results_*.json")
        results[name] = json.loads(file.read_text())["results"]["own_piqa"]
    for metric in ["acc,none", "acc_norm,none", "acc_stderr,none"]:
        assert results["osp"][metric] == results["hf"][metric]
