"""Penalties and min_p of `osp serve`, computed again from the log-probabilities of each step."""

import math
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

ASK = dict(prompt="The word of the house", max_tokens=24, logprobs=20)


def steps_of(choice):
    """Of each written token: its name, and the log-probabilities of the 20 most likely before any penalty."""
    logprobs = choice["logprobs"]
    return list(zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True))


@pytest.mark.parametrize(
    "penalties",
    [
        {"presence_penalty": 2},
        {"frequency_penalty": 1.5},
        {"presence_penalty": 0.25, "frequency_penalty": 0.5},
        {"presence_penalty": -1.5, "frequency_penalty": 0.125},
    ],
)
def test_penalties_are_taken_from_the_logits_of_written_tokens(server, penalties):
    prompt, candidates, count = [5, 6, 7], list(range(100, 106)), 20
    # The bias leaves these tokens alone to be written.
    bias = {str(id): 100 for id in candidates}
    body = dict(max_tokens=count, logprobs=0, echo=True, logit_bias=bias)
    named = server.complete([candidates], max_tokens=0, logprobs=0, echo=True)["choices"][0]
    id_of = dict(zip(named["logprobs"]["tokens"], candidates, strict=True))

    def written(**more):
        choice = server.complete(prompt, **body, **more)["choices"][0]
        return [id_of[name] for name in choice["logprobs"]["tokens"][len(prompt) :]]

    ids = written(**penalties)
    assert ids != written()
    # What each candidate was worth at each step, before any bias or penalty.
    texts = [prompt + ids[:step] + [id] for step in range(count) for id in candidates]
    scored = server.complete(texts, max_tokens=0, logprobs=0, echo=True)["choices"]
    values = iter([choice["logprobs"]["token_logprobs"][-1] for choice in scored])
    presence, frequency = (penalties.get(f"{kind}_penalty", 0) for kind in ("presence", "frequency"))
    counts = Counter()
    for id in ids:
        value = {c: next(values) - counts[c] * frequency - (counts[c] > 0) * presence for c in candidates}
        assert id == max(value, key=value.get)
        counts[id] += 1


def test_repetition_penalty_counts_the_prompt_and_the_others_do_not(server):
    prompts = [random.Random(seed).sample(range(4000), 500) for seed in range(24)]

    def tokens(**penalties):
        body = dict(max_tokens=1, logprobs=0, echo=True, **penalties)
        return [c["logprobs"]["tokens"] for c in server.complete(prompts, **body)["choices"]]

    plain = tokens()
    assert any(names[-1] in names[:-1] for names in plain)
    assert tokens(presence_penalty=2, frequency_penalty=2) == plain
    assert not any(names[-1] in names[:-1] for names in tokens(repetition_penalty=100))
    written = server.complete(**ASK, repetition_penalty=100)["choices"][0]["logprobs"]["tokens"]
    assert len(set(written)) == len(written) == 24


def test_neutral_values_change_nothing(server):
    neutral = dict(presence_penalty=0, frequency_penalty=0.0, repetition_penalty=1, min_p=0)
    assert server.complete(**ASK, **neutral)["choices"] == server.complete(**ASK)["choices"]
    sampled = dict(temperature=0.9, seed=5)
    assert (
        server.complete(**ASK, **sampled, **neutral)["choices"]
        == server.complete(**ASK, **sampled)["choices"]
    )


@pytest.mark.parametrize("temperature", [0.7, 1, 1.6])
def test_min_p_cuts_by_the_most_likely_token(server, temperature):
    seen = set()
    for seed in range(6):
        sampled = dict(temperature=temperature, min_p=0.25, seed=seed)
        for name, top in steps_of(server.complete(**ASK, **sampled)["choices"][0]):
            ratio = math.exp((top[name] - max(top.values())) / temperature)
            assert ratio >= 0.25
            seen.add(round(ratio, 9))
    assert len(seen) > 10 and min(seen) < 0.5
    alone = server.text(ASK["prompt"], temperature=temperature, min_p=1, max_tokens=12)
    assert alone == server.text(ASK["prompt"], max_tokens=12)


def test_penalised_texts_do_not_depend_on_others(server):
    def ask(i):
        body = dict(temperature=0.8 * (i % 2), seed=i, presence_penalty=0.3, frequency_penalty=0.2)
        return server.text(f"The word {i % 3}", max_tokens=20, repetition_penalty=1.1, min_p=0.02, **body)

    alone = [ask(i) for i in range(12)]
    assert len(set(alone)) > 6
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(12))) == alone
    # Each choice counts its own tokens.
    body = dict(prompt="The word", max_tokens=12, temperature=1, seed=3, frequency_penalty=1)
    four = [c["text"] for c in server.complete(**body, n=4)["choices"]]
    assert four[:1] == [c["text"] for c in server.complete(**body)["choices"]] and len(set(four)) == 4


def test_chats_have_them_too(server):
    body = dict(messages=[{"role": "user", "content": "Hello"}], max_tokens=12, temperature=0)

    def text(**more):
        return server.post("/v1/chat/completions", **body, **more)["choices"][0]["message"]["content"]

    bias = {str(id): 100 for id in range(1000, 1006)}
    texts = {text(logit_bias=bias), text(logit_bias=bias, frequency_penalty=2)}
    assert len(texts | {text(logit_bias=bias, repetition_penalty=50)}) == 3
