"""`osp score`: log-likelihoods and greedy continuations against transformers."""

import json
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))
from test_gguf_model import random_llama

# Log-likelihoods are sums of up to ten fp32 logarithms of about 8.
TOLERANCE = 1e-4

PAIRS = [
    ("A tree is a", " tall plant"),
    ("A tree is a ", "tall plant"),  # the space belongs to the continuation
    ("A tree is a", " word of the dictionary, and more"),
    ("To run", " is to move"),
    ("", "Without any context"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory, repo_root):
    folder = tmp_path_factory.mktemp("score") / "model"
    llama = random_llama(vocab_size=4096, max_position_embeddings=64).eval()
    llama.save_pretrained(folder)
    file = repo_root / "recipes" / "gcide-4096" / "tokenizer.json"
    (folder / "tokenizer.json").write_bytes(file.read_bytes())
    return folder, llama, Tokenizer.from_file(str(file))


def answers(run_program, model_dir, lines, **keywords):
    text = "\n".join(json.dumps(line) for line in lines)
    out = run_program(
        ["osp", "score", model_dir, *keywords.pop("options", [])], input=text, **keywords
    ).stdout
    return [json.loads(line) for line in out.splitlines()]


def split(tokenizer, context, continuation):
    """Ids of both parts, as lm-eval makes them."""
    end = len(context.rstrip())
    whole = tokenizer.encode(context + continuation, add_special_tokens=False).ids
    ids = tokenizer.encode(context[:end], add_special_tokens=False).ids
    rest = whole[len(ids) :]
    return (ids or [tokenizer.token_to_id("<|endoftext|>")]), rest


def test_log_likelihoods_equal_those_of_transformers(model, run_program):
    folder, llama, tokenizer = model
    found = answers(run_program, folder, [{"context": c, "continuation": t} for c, t in PAIRS])
    assert len(found) == len(PAIRS)
    for (context, continuation), result in zip(PAIRS, found, strict=True):
        ids, rest = split(tokenizer, context, continuation)
        with torch.no_grad():
            log_p = llama(torch.tensor([ids + rest])).logits[0].double().log_softmax(-1)
        rows = log_p[len(ids) - 1 : len(ids) + len(rest) - 1]
        expected = rows.gather(1, torch.tensor(rest)[:, None]).sum().item()
        assert result["tokens"] == len(rest) and result["cut"] == 0
        assert result["log_likelihood"] == pytest.approx(expected, abs=TOLERANCE)
        assert result["greedy"] == (rows.argmax(-1).tolist() == rest)


def test_token_ids_serve_instead_of_texts(model, run_program):
    folder, _, tokenizer = model
    ids, rest = split(tokenizer, *PAIRS[0])
    both = answers(run_program, folder, [{"context": ids, "continuation": rest},
                                         {"context": PAIRS[0][0], "continuation": PAIRS[0][1]}])  # fmt: skip
    assert both[0]["log_likelihood"] == pytest.approx(both[1]["log_likelihood"], abs=TOLERANCE)


def test_a_long_text_is_scored_in_windows_of_the_context(model, run_program):
    folder, llama, tokenizer = model
    text = "A word that is said again and again. " * 12
    (result,) = answers(run_program, folder, [{"text": text}])
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert len(ids) > 64 and result["tokens"] == len(ids)
    ids, sum_ = [tokenizer.token_to_id("<|endoftext|>"), *ids], 0.0
    for begin in range(1, len(ids), 64):
        end = min(begin + 64, len(ids))
        window = ids[max(0, end - 65) : end]
        with torch.no_grad():
            log_p = llama(torch.tensor([window[:-1]])).logits[0].double().log_softmax(-1)
        targets = torch.tensor(ids[begin:end])
        sum_ += log_p[-len(targets) :].gather(1, targets[:, None]).sum().item()
    # Hundreds of terms.
    assert result["log_likelihood"] == pytest.approx(sum_, abs=10 * TOLERANCE)


def test_greedy_continuations_equal_those_of_transformers(model, run_program):
    folder, llama, tokenizer = model
    contexts = ["A tree is a", "To run", "The word that is said again"]
    found = answers(run_program, folder, [{"context": c, "max_tokens": 12} for c in contexts])
    for context, result in zip(contexts, found, strict=True):
        ids = tokenizer.encode(context, add_special_tokens=False).ids
        with torch.no_grad():
            expected = llama.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, pad_token_id=0,
                                      eos_token_id=tokenizer.token_to_id("<|endoftext|>"))  # fmt: skip
        expected = [
            i for i in expected[0, len(ids) :].tolist() if i != tokenizer.token_to_id("<|endoftext|>")
        ]
        assert result["tokens"] == expected


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('{"context": "a"}', "continuation"),
        ('{"context": "a", "continuation": 3}', "continuation"),
        ('{"context": [1, 99999], "continuation": [2]}', "99999"),
        ('{"context": "a", "max_tokens": -1}', "max_tokens"),
        ('{"context": "a", "max_tokens": 2, "until": [""]}', "until"),
        ("[1]", "object"),
        ("{", "line 2"),
    ],
)
def test_wrong_lines_are_named(model, run_program, line, part):
    folder, _, _ = model
    text = '{"context": "a", "continuation": " b"}\n' + line
    result = run_program(["osp", "score", folder], input=text, check=False)
    assert result.returncode == 3 and part in result.stderr


def log_p(llama, ids, rest):
    """Of `rest` after `ids`, by transformers."""
    with torch.no_grad():
        rows = llama(torch.tensor([ids + rest])).logits[0].double().log_softmax(-1)[len(ids) - 1 : -1]
    return rows.gather(1, torch.tensor(rest)[:, None]).sum().item(), rows.argmax(-1).tolist() == rest


def test_a_continuation_that_merges_into_the_context_is_scored_with_the_merged_token(model, run_program):
    """It has no tokens of its own beyond the context's; the context ends where the two begin to differ."""
    folder, llama, tokenizer = model

    def ids_of(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    merging = []
    for word in ("a tree", "the plant", "a word", "of water", "to have"):
        for cut in range(3, len(word)):
            context, whole = ids_of(word[:cut]), ids_of(word)
            same = next(
                (i for i, (a, b) in enumerate(zip(context, whole, strict=False)) if a != b), len(whole)
            )
            if len(whole) <= len(context) and 0 < same < len(whole):
                merging.append((word[:cut], word[cut:], whole[:same], whole[same:]))
    assert len(merging) >= 3
    lines = [{"context": context, "continuation": rest} for context, rest, _, _ in merging]
    for found, (_, _, ids, rest) in zip(answers(run_program, folder, lines), merging, strict=True):
        expected, greedy = log_p(llama, ids, rest)
        assert found["tokens"] == len(rest) > 0 and found["greedy"] == greedy
        assert found["log_likelihood"] == pytest.approx(expected, abs=TOLERANCE)
        assert found["log_likelihood"] < 0


@pytest.mark.parametrize("context", ["A tree", "", [5, 6]])
def test_an_empty_continuation_is_refused_not_certain(model, run_program, context):
    folder, _, _ = model
    line = json.dumps({"context": context, "continuation": "" if isinstance(context, str) else []})
    result = run_program(["osp", "score", folder], input=line, check=False)
    assert result.returncode == 3 and "line 1" in result.stderr and "continuation" in result.stderr


def test_the_end_of_a_template_is_no_part_of_a_prompt(model, run_program, tmp_path):
    """Tokenizers whose template puts <s> in front and </s> behind: the first begins the context, the second
    stands neither between context and continuation nor behind either."""
    folder, llama, tokenizer = model
    changed = json.loads((folder / "tokenizer.json").read_text())
    end = tokenizer.token_to_id("<|endoftext|>")
    special = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [end], "tokens": ["<|endoftext|>"]}}

    def template(begins):
        mark = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
        text = [[{"Sequence": {"id": name, "type_id": 0}}] for name in "AB"]
        around = [([mark] if begins else []) + part + [mark] for part in text]
        return {"type": "TemplateProcessing", "single": around[0], "pair": around[0] + around[1],
                "special_tokens": special}  # fmt: skip

    for begins in (False, True):
        other = tmp_path / f"model-{begins}"
        other.mkdir()
        for name in ("config.json", "model.safetensors"):
            (other / name).symlink_to(folder / name)
        text = json.dumps({**changed, "post_processor": template(begins)}, ensure_ascii=False)
        (other / "tokenizer.json").write_text(text)
        assert Tokenizer.from_file(str(other / "tokenizer.json")).encode("a").ids[-1] == end
        lines = [{"context": c, "continuation": t} for c, t in PAIRS]
        for (context, rest), found in zip(PAIRS, answers(run_program, other, lines), strict=True):
            ids, rest = split(tokenizer, context, rest)
            if begins and context:
                ids = [end, *ids]
            expected, greedy = log_p(llama, ids, rest)
            assert found["tokens"] == len(rest) and found["greedy"] == greedy
            assert found["log_likelihood"] == pytest.approx(expected, abs=TOLERANCE)
