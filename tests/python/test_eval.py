"""osp eval and osp analyze against transformers on a saved random Llama, and their errors."""

import copy
import json
import math

import pytest
import torch
from reference_llama import Shape
from test_model_dir import transformers_llama
from tokenizers import Tokenizer

SHAPE = Shape(layers=3, vocabulary=4096, context=32, width=64)
TEXT = "".join(
    f"The {i}th word of {i * i} is not the {i % 7}th; it means something else. " for i in range(60)
)


@pytest.fixture(scope="module")
def model(tmp_path_factory, repo_root):
    """Folder, transformers' model, text file, its ids."""
    folder = tmp_path_factory.mktemp("eval")
    llama = transformers_llama(SHAPE)
    llama.save_pretrained(folder / "model")
    tokenizer = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"
    (folder / "model" / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    (folder / "text.txt").write_text(TEXT)
    ids = Tokenizer.from_file(str(tokenizer)).encode(TEXT, add_special_tokens=False).ids
    return folder / "model", llama, folder / "text.txt", ids


def windows(ids, length=SHAPE.context):
    count = len(ids) // length
    return torch.tensor(ids[: count * length]).reshape(count, length)


def centred(x):
    x = x.double()
    d = x - x.mean(-1, keepdim=True)
    return (d**4).mean(-1) / (d**2).mean(-1) ** 2 - 3


def clipped(x):
    x = x.double()
    return ((x**4).mean(-1) / x.std(-1, unbiased=True) ** 4 - 3).clamp(min=0)


def test_perplexity_equals_transformers(model, run_program):
    folder, llama, text, ids = model
    out = json.loads(
        run_program(
            [
                "osp",
                "eval",
                folder,
                "--data",
                text,
                "--tasks",
                "perplexity",
                "--bits",
                "16-16-16,4-4-4",
                "--json",
            ]
        ).stdout
    )
    batch = windows(ids)
    with torch.no_grad():
        logits = llama(batch).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).double(), batch[:, 1:].flatten())
    full, four = out["results"]
    assert full["bits"] == "16-16-16" and four["bits"] == "4-4-4"
    assert full["tokens"] == batch[:, 1:].numel() == four["tokens"]
    # fp32 logits of size ~10 differ by 2e-5 of the largest at most, and so does the loss; exp keeps it.
    assert full["perplexity"] == pytest.approx(loss.exp().item(), rel=1e-4)
    assert full["loss"] == pytest.approx(math.log(full["perplexity"]), rel=1e-12)
    assert four["perplexity"] != full["perplexity"]
    assert full["seconds"] > 0


def test_max_tokens_scores_whole_windows_within_it(model, run_program):
    folder, _, text, _ = model
    out = json.loads(
        run_program(["osp", "eval", folder, "--data", text, "--data-tokens", "100", "--json"]).stdout
    )
    assert out["results"][0]["tokens"] == 3 * 31
    assert out["results"][0]["bits"] == "16-16-16"


def test_bits_per_byte_count_the_bytes_of_scored_tokens(model, run_program, repo_root):
    folder, _, text, ids = model
    out = json.loads(run_program(["osp", "eval", folder, "--data", text, "--json"]).stdout)["results"][0]
    tokenizer = Tokenizer.from_file(str(repo_root / "recipes" / "gcide-4096" / "tokenizer.json"))
    ends = [
        end for _, end in tokenizer.encode(TEXT, add_special_tokens=False).offsets
    ]  # ASCII: characters are bytes
    begins = [0, *ends[:-1]]
    scored = sum(ends[i] - begins[i] for i in range(len(windows(ids).flatten())) if i % SHAPE.context)
    assert out["bits_per_byte"] == pytest.approx(out["loss"] * out["tokens"] / math.log(2) / scored, rel=1e-9)


@pytest.mark.parametrize("stride", [1, 7, 16, 31])
def test_overlapping_windows_score_every_token_once(model, run_program, stride):
    folder, llama, text, ids = model
    length = SHAPE.context
    used = ids[: length + 24 * stride]
    out = json.loads(run_program(["osp", "eval", folder, "--data", text, "--stride", stride, "--data-tokens",
                                  len(used), "--json"]).stdout)["results"][0]  # fmt: skip
    losses, seen = [], 1
    for begin in range(0, len(used) - length + 1, stride):
        window = torch.tensor([used[begin : begin + length]])
        with torch.no_grad():
            log_p = llama(window).logits[0, :-1].double().log_softmax(-1)
        loss = -log_p.gather(1, window[0, 1:, None])[:, 0]
        losses.append(loss[seen - begin - 1 :])
        seen = begin + length
    losses = torch.cat(losses)
    assert losses.numel() == seen - 1 == out["tokens"]
    assert out["stride"] == stride and out["window"] == length
    assert out["loss"] == pytest.approx(losses.mean().item(), rel=1e-5)


def test_a_stride_beyond_the_window_is_refused(model, run_program):
    folder, _, text, _ = model
    result = run_program(["osp", "eval", folder, "--data", text, "--stride", SHAPE.context + 1], check=False)
    assert result.returncode == 2 and f"windows of {SHAPE.context}" in result.stderr


def test_divergence_equals_transformers(model, run_program, tmp_path):
    folder, llama, text, ids = model
    other = copy.deepcopy(llama)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.2 * weight.std() * torch.randn(weight.shape, generator=generator)
    other.save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    out = json.loads(run_program(["osp", "eval", tmp_path / "other", "--divergence-from", folder, "--data",
                                  text, "--json"]).stdout)["results"][0]["divergence"]  # fmt: skip
    batch = windows(ids)
    with torch.no_grad():
        p, q = (x(batch).logits[:, :-1].flatten(0, 1).double().log_softmax(-1) for x in (llama, other))
    divergence = (p.exp() * (p - q)).sum(-1)
    wanted = {"mean": divergence.mean()}
    for name, quantile in {"median": 0.5, "p95": 0.95, "p99": 0.99}.items():
        wanted[name] = divergence.sort().values[math.ceil(quantile * divergence.numel()) - 1]
    assert out["from"] == str(folder)
    assert wanted["p99"] > 1.2 * wanted["median"] > 0.01
    for name, value in wanted.items():
        assert out[name] == pytest.approx(value.item(), rel=1e-3), name
    assert out["same_choice"] == pytest.approx(
        (p.argmax(-1) == q.argmax(-1)).double().mean().item(), abs=1e-3
    )


def test_precision_is_that_of_the_products(model, run_program, tmp_path):
    folder, llama, text, ids = model
    words = ["osp", "eval", folder, "--data", text, "--json"]
    full, half = (json.loads(run_program([*words, *p]).stdout) for p in ([], ["--precision", "bf16"]))
    assert full["precision"] == "fp32" and half["precision"] == "bf16"
    batch = windows(ids)
    other = copy.deepcopy(llama).bfloat16()
    with torch.no_grad():
        log_p = other(batch).logits[:, :-1].float().log_softmax(-1)
    loss = -log_p.gather(2, batch[:, 1:, None]).mean().item()
    full, half = full["results"][0]["loss"], half["results"][0]["loss"]
    assert 0 < abs(half - full) < 2e-3 * full
    # Rounded elsewhere than in transformers, by as much as either is off.
    assert abs(half - loss) < 2e-3 * loss
    run_program(["osp", "quantize", folder, "--method", "rtn", "--bits", "4-4-4", "--out", tmp_path / "q"])
    words = ["osp", "eval", tmp_path / "q", "--data", text, "--precision", "bf16"]
    refused = run_program(words, check=False)
    assert refused.returncode == 2 and "--engine simulated" in refused.stderr
    run_program([*words, "--engine", "simulated"])


def test_perplexity_is_the_same_with_divergence(model, run_program):
    folder, _, text, _ = model
    words = ["osp", "eval", folder, "--data", text, "--bits", "16-16-16,4-4-4", "--json"]
    alone, both = (
        json.loads(run_program([*words, *more]).stdout)["results"]
        for more in ([], ["--divergence-from", folder])
    )
    for a, b in zip(alone, both, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6) and a["tokens"] == b["tokens"]
        assert (a["window"], a["stride"]) == (b["window"], b["stride"])
        assert a["bits_per_byte"] == pytest.approx(b["bits_per_byte"], rel=1e-6)


def test_divergence_of_a_quantized_model(model, run_program, tmp_path):
    folder, _, text, _ = model
    run_program(["osp", "quantize", folder, "--method", "rtn", "--bits", "4-4-4", "--out", tmp_path / "q"])
    options = ["--divergence-from", folder, "--data", text, "--json"]
    (stored,) = json.loads(run_program(["osp", "eval", tmp_path / "q", *options]).stdout)["results"]
    whole, faked = json.loads(run_program(["osp", "eval", folder, "--bits", "16-16-16,4-4-4",
                                           *options]).stdout)["results"]  # fmt: skip
    assert whole["divergence"] == {
        "from": str(folder),
        "mean": 0,
        "median": 0,
        "p95": 0,
        "p99": 0,
        "same_choice": 1,
    }
    assert stored["bits"] == "4-4-4" and stored["divergence"]["mean"] > 0.01
    assert stored["divergence"]["mean"] == pytest.approx(faked["divergence"]["mean"], rel=0.3)


def test_options_that_do_not_go_together(model, run_program, tmp_path):
    folder, _, text, _ = model

    def refused(*arguments):
        result = run_program(["osp", "eval", folder, "--data", text, *arguments], check=False)
        assert result.returncode == 2 and result.stdout == "" and len(result.stderr.strip().splitlines()) == 1
        return result.stderr

    assert "--stride with --divergence-from" in refused("--stride", 8, "--divergence-from", folder)
    assert "is for perplexity" in refused("--stride", 8, "--tasks", "arc_easy")
    transformers_llama(Shape(layers=1, vocabulary=512, context=32, width=64)).save_pretrained(
        tmp_path / "small"
    )
    assert "vocabulary 512" in refused("--divergence-from", tmp_path / "small")
    run_program(["osp", "quantize", folder, "--method", "rtn", "--bits", "4-4-4", "--out", tmp_path / "q"])
    assert "is quantized" in refused("--divergence-from", tmp_path / "q")


def test_shards_are_scored_on_their_held_out_split(model, run_program, tmp_path, repo_root):
    folder, _, _, _ = model
    tokenizer = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"
    lines = [json.dumps({"text": f"Document {i}. {TEXT[i * 40 : i * 40 + 400]}"}) for i in range(40)]
    (tmp_path / "documents.jsonl").write_text("\n".join(lines) + "\n")
    made = json.loads(
        run_program(
            [
                "osp",
                "tokenize",
                tmp_path / "documents.jsonl",
                "--tokenizer",
                tokenizer,
                "--out",
                tmp_path / "shards",
                "--validation-fraction",
                "0.5",
                "--json",
            ]
        ).stdout
    )
    out = json.loads(run_program(["osp", "eval", folder, "--data", tmp_path / "shards", "--json"]).stdout)
    held_out = made["validation"]["tokens"]
    assert held_out > 0 and out["results"][0]["tokens"] == held_out // 32 * 31
    out = json.loads(run_program(["osp", "analyze", folder, "--data", tmp_path / "shards", "--json"]).stdout)
    assert out["tokens"] == held_out // 32 * 32


def test_table_for_people_goes_to_stdout_and_progress_to_stderr(model, run_program):
    folder, _, text, _ = model
    result = run_program(["osp", "eval", folder, "--data", text, "--bits", "4-16-16"])
    assert result.stdout.splitlines()[0].split() == [
        "bits",
        "perplexity",
        "loss",
        "bits/byte",
        "tokens",
        "time",
    ]
    assert result.stdout.splitlines()[1].startswith("4-16-16")
    assert "windows" not in result.stdout
    assert run_program(["osp", "eval", folder, "--data", text, "--quiet"]).stderr == ""


def test_analyze_equals_the_independent_computation(model, run_program):
    folder, llama, text, ids = model
    out = json.loads(run_program(["osp", "analyze", folder, "--data", text, "--json"]).stdout)
    batch = windows(ids)
    raw = []  # states as they are: transformers' last hidden state is already normalised
    hooks = [llama.model.layers[0].register_forward_pre_hook(lambda module, inputs: raw.append(inputs[0]))]
    for layer in llama.model.layers:
        hooks.append(
            layer.register_forward_hook(
                lambda module, inputs, output: raw.append(output[0] if isinstance(output, tuple) else output)
            )
        )
    with torch.no_grad():
        llama(batch)
        for hook in hooks:
            hook.remove()
        single = llama(batch.reshape(-1, 1), output_hidden_states=True).hidden_states
    assert out["tokens"] == batch.numel()
    kurtosis = out["excess_kurtosis"]
    # Kurtosis in fp64 of states that agree to 2e-5 of their size.
    wanted = [centred(x).mean().item() for x in raw]
    assert kurtosis["per_layer"] == pytest.approx(wanted, rel=1e-3, abs=1e-3)
    assert kurtosis["mean"] == pytest.approx(sum(wanted) / len(wanted), rel=1e-3, abs=1e-3)
    wanted = [clipped(x).mean().item() for x in single]
    assert len(wanted) == SHAPE.layers + 1
    assert kurtosis["clipped_per_layer"] == pytest.approx(wanted, rel=1e-3, abs=1e-3)
    assert kurtosis["clipped_mean"] == pytest.approx(sum(wanted) / len(wanted), rel=1e-3, abs=1e-3)

    states = torch.stack(raw).abs()  # [L+1, B, T, D]
    layer, sequence, position, channel = (
        i.item() for i in torch.unravel_index(states.argmax(), states.shape)
    )
    largest = out["largest_activation"]
    assert largest["value"] == pytest.approx(states.max().item(), rel=1e-4)
    assert [largest[k] for k in ("layer", "sequence", "position", "channel")] == [
        layer,
        sequence,
        position,
        channel,
    ]
    assert largest["token_id"] == batch[sequence, position].item()
    assert isinstance(largest["token"], str)


def test_histograms_hold_every_number(model, run_program):
    folder, llama, text, ids = model
    out = json.loads(run_program(["osp", "analyze", folder, "--data", text, "--json"]).stdout)
    residual = {h["layer"]: h for h in out["histograms"] if h["point"] == "residual"}
    assert sorted(residual) == list(range(SHAPE.layers + 1))
    for histogram in residual.values():
        assert sum(histogram["counts"]) == out["tokens"] * SHAPE.width
        assert histogram["low"] < histogram["mean"] < histogram["high"]
    embedded = llama.model.embed_tokens.weight[windows(ids)].double()
    assert residual[0]["mean"] == pytest.approx(embedded.mean().item(), abs=1e-9)
    assert residual[0]["std"] == pytest.approx(embedded.std(unbiased=False).item(), rel=1e-9)
    points = {h["point"] for h in out["histograms"]}
    assert {
        "attention_input",
        "query",
        "key",
        "value",
        "attention_output",
        "mlp_input",
        "mlp_product",
    } <= points


def test_text_of_analyze_ends_in_a_verdict(model, run_program):
    folder, _, text, _ = model
    lines = run_program(["osp", "analyze", folder, "--data", text]).stdout.strip().splitlines()
    assert lines[-1].startswith("Verdict: the model has ")
    assert "excess kurtosis is" in lines[-1] and "largest activation is" in lines[-1]


@pytest.mark.parametrize("bits", ["4-4", "4-4-4-4", "1-4-4", "16-16-16,9-4-4", "", "four-4-4"])
def test_bad_bits_are_a_usage_error(model, run_program, bits):
    folder, _, text, _ = model
    result = run_program(["osp", "eval", folder, "--data", text, "--bits", bits], check=False)
    assert result.returncode == 2 and "bits" in result.stderr and result.stdout == ""


@pytest.mark.parametrize("verb", ["eval", "analyze"])
def test_what_is_missing_is_named(model, run_program, tmp_path, verb):
    folder, _, text, _ = model

    def fails(*arguments):
        result = run_program(["osp", verb, *arguments], check=False)
        assert len(result.stderr.strip().splitlines()) == 1 and result.stdout == ""
        return result.returncode, result.stderr

    status, message = fails(tmp_path / "nowhere", "--data", text)
    assert status == 2 and "nowhere" in message
    status, message = fails(folder, "--data", tmp_path / "absent.txt")
    assert status == 2 and "absent.txt" in message
    assert fails(folder)[0] == 2  # no --data
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.txt").write_text(" \n\n\t\n")
    for name in ("empty.txt", "blank.txt"):
        status, message = fails(folder, "--data", tmp_path / name)
        assert status == 3 and name in message and "empty" in message


def test_text_shorter_than_a_window_cannot_be_scored(model, run_program, tmp_path):
    folder, _, _, _ = model
    (tmp_path / "short.txt").write_text("Only a few words.")
    result = run_program(["osp", "eval", folder, "--data", tmp_path / "short.txt"], check=False)
    assert result.returncode == 3 and "window of 32" in result.stderr
    # It can be analyzed: one shorter sequence.
    out = json.loads(
        run_program(["osp", "analyze", folder, "--data", tmp_path / "short.txt", "--json"]).stdout
    )
    assert 0 < out["tokens"] < 32


def test_unknown_task_is_named(model, run_program):
    folder, _, text, _ = model
    result = run_program(["osp", "eval", folder, "--data", text, "--tasks", "arc_eazy"], check=False)
    assert result.returncode == 2 and "arc_eazy" in result.stderr and "arc_easy" in result.stderr
