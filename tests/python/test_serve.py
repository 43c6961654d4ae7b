"""`osp serve`: what it writes, whole and in streams, alone and beside others, and its log-probabilities."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from tokenizers import Tokenizer


def generated(run_program, serve_folder, prompt, *options):
    words = ["osp", "generate", serve_folder, "--prompt", prompt, "--json", *options]
    return json.loads(run_program(words).stdout)


def test_the_banner_names_address_kernels_and_threads(server, start_server, serve_folder, osp_build):
    assert server.banner["threads"] == 2 and server.banner["kernels"] and server.banner["head_bits"] == 16
    plain = subprocess.Popen(
        [osp_build / "osp", "serve", serve_folder, "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    line = plain.stdout.readline()
    plain.terminate()
    assert plain.wait(timeout=30) == 0
    assert line.startswith("serving tiny at http://127.0.0.1:") and "threads" in line and "8-bit head" in line


def test_text_is_that_of_osp_generate(server, run_program, serve_folder):
    for prompt in ("The word", ""):
        expected = generated(run_program, serve_folder, prompt, "--max-tokens", "24")
        answer = server.complete(prompt, max_tokens=24)
        assert answer["choices"][0]["text"] == expected["text"]
        assert answer["usage"]["prompt_tokens"] == len(expected["prompt_tokens"])
        # The same from token ids.
        assert server.text(expected["prompt_tokens"], max_tokens=24) == expected["text"]
    sampling = ["--temperature", "0.9", "--top-p", "0.8", "--seed", "7", "--max-tokens", "24"]
    expected = generated(run_program, serve_folder, "The word", *sampling, "--head", "16")["text"]
    assert server.text("The word", temperature=0.9, top_p=0.8, seed=7, max_tokens=24) == expected


PROMPTS = [f"{'The word of the house number ' * (i % 5 * 9)}{i} is" for i in range(16)]


def test_sixteen_at_once_write_what_each_writes_alone(server):
    """Bits do not depend on the texts beside it, on the pieces of a prompt or on what was cached."""

    def ask(prompt):
        return server.complete(prompt, max_tokens=20, logprobs=2)["choices"][0]

    alone = [ask(p) for p in PROMPTS]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, PROMPTS))
    assert together == alone
    # And as one request.
    choices = server.complete(PROMPTS, max_tokens=20, logprobs=2)["choices"]
    assert [{**c, "index": 0} for c in choices] == alone
    assert [c["index"] for c in choices] == list(range(16))


def test_sampled_texts_do_not_depend_on_others(server):
    def ask(seed):
        return server.text("The word", max_tokens=16, temperature=1, seed=seed)

    alone = [ask(seed) for seed in range(12)]
    assert len(set(alone)) > 6
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(12))) == alone


def test_a_prefix_hit_is_reported_and_changes_nothing(start_server, serve_folder):
    fresh = start_server(serve_folder, "--threads", "1")
    prompt = "It is a truth that all the men and women of the house know. " * 20
    first = fresh.complete(prompt, max_tokens=12, logprobs=1)
    tokens = first["usage"]["prompt_tokens"]
    assert tokens > 256 and first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    again = fresh.complete(prompt, max_tokens=12, logprobs=1)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == (tokens - 1) // 128 * 128
    assert again["choices"] == first["choices"]
    other = fresh.complete(prompt + "But", max_tokens=12)
    assert other["usage"]["prompt_tokens_details"]["cached_tokens"] >= 256
    assert fresh.metrics()["osp_cached_tokens_total"] >= 512
    assert fresh.stop() == 0


def test_a_stream_has_the_text_of_one_piece(server):
    body = dict(prompt="The word", max_tokens=24, temperature=0, logprobs=2)
    whole = server.post("/v1/completions", **body)
    events = server.events("/v1/completions", **body, stream_options={"include_usage": True})
    last = events.pop()
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert all(e["usage"] is None and e["object"] == "text_completion" for e in events)
    choices = [e["choices"][0] for e in events]
    assert "".join(c["text"] for c in choices) == whole["choices"][0]["text"]
    assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + ["length"]
    for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        joined = [x for c in choices if c["logprobs"] for x in c["logprobs"][key]]
        assert joined == whole["choices"][0]["logprobs"][key]
    assert "usage" not in server.events("/v1/completions", **body)[0]


def test_chat_streams_begin_with_a_role_and_end_with_an_empty_delta(server):
    body = dict(messages=[{"role": "user", "content": "Hello"}], max_completion_tokens=12, temperature=0)
    whole = server.post("/v1/chat/completions", **body, logprobs=True, top_logprobs=2)
    choice = whole["choices"][0]
    assert whole["object"] == "chat.completion" and choice["message"]["role"] == "assistant"
    rendered = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert choice["message"]["content"] == server.text(rendered, max_tokens=12)
    for entry in choice["logprobs"]["content"]:
        assert bytes(entry["bytes"]).decode(errors="replace") == entry["token"]
        assert len(entry["top_logprobs"]) == 2
        assert entry["top_logprobs"][0]["logprob"] == entry["logprob"]
    assert whole["usage"]["completion_tokens"] == len(choice["logprobs"]["content"]) == 12
    events = server.events("/v1/chat/completions", **body)
    deltas = [e["choices"][0]["delta"] for e in events]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    assert "".join(d.get("content", "") for d in deltas) == choice["message"]["content"]
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]
    again = server.post("/v1/chat/completions", **{**body, "messages": parts, "max_tokens": 3})
    assert again["choices"][0]["message"]["content"] == choice["message"]["content"]


def test_special_tokens_that_a_user_spells_are_those_of_the_tokenizer(server, ids_of):
    """As in transformers: the ids of the whole text, and nothing beside them."""
    content = "Hello<|endoftext|>world <|endoftext|"
    rendered = f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
    end = ids_of("<|endoftext|>")
    assert len(end) == 1 and ids_of(rendered).count(end[0]) == 1
    body = dict(max_tokens=8, temperature=0)
    chat = server.post("/v1/chat/completions", messages=[{"role": "user", "content": content}], **body)
    for text, usage in (
        (chat["choices"][0]["message"]["content"], chat["usage"]),
        (server.text(rendered, max_tokens=8), server.complete(rendered, max_tokens=8)["usage"]),
    ):
        assert text == server.text(ids_of(rendered), max_tokens=8)
        assert usage["prompt_tokens"] == len(ids_of(rendered))


@pytest.fixture(scope="module")
def ids_of(serve_folder):
    tokenizer = Tokenizer.from_file(str(serve_folder / "tokenizer.json"))
    return lambda text: tokenizer.encode(text).ids


def test_echo_with_logprobs_gives_the_log_likelihoods_of_osp_score(server, run_program, serve_folder, ids_of):
    """What lm-eval's local-completions sends: ids, one token, echo."""
    pairs = [("The word of the", " house and gardens"), ("A", " king"), ("It is a truth " * 30, " that all")]
    ids = [(ids_of(c), ids_of(t)) for c, t in pairs]
    lines = "".join(json.dumps({"context": c, "continuation": t}) + "\n" for c, t in ids)
    words = ["osp", "score", serve_folder, "--requests", "-", "--quiet", "--head", "16"]
    scores = [json.loads(line) for line in run_program(words, input=lines).stdout.splitlines()]
    body = dict(max_tokens=1, logprobs=1, seed=1234, echo=True)
    answer = server.complete([c + t for c, t in ids], **body)
    for (context, continuation), score, choice in zip(ids, scores, answer["choices"], strict=True):
        logprobs = choice["logprobs"]
        count = len(context) + len(continuation)
        assert {len(logprobs[key]) for key in logprobs} == {count + 1}
        assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
        values = logprobs["token_logprobs"][len(context) : -1]
        # osp score sums exp in fp32.
        assert sum(values) == pytest.approx(score["log_likelihood"], rel=1e-6, abs=1e-5)
        top = logprobs["top_logprobs"][len(context) : -1]
        assert all(v == max(t.values()) for v, t in zip(values, top, strict=True)) == score["greedy"]
    # Alone it is the same in every digit.
    assert [server.complete(c + t, **body)["choices"][0]["logprobs"] for c, t in ids] == [
        c["logprobs"] for c in answer["choices"]
    ]


def test_offsets_point_to_the_tokens_in_the_text(server):
    text = "The naïve café — of the word"
    choice = server.complete(text, max_tokens=8, logprobs=0, echo=True)["choices"][0]
    assert choice["text"].startswith(text)
    logprobs = choice["logprobs"]
    assert logprobs["top_logprobs"] is None
    ends = [*logprobs["text_offset"][1:], len(choice["text"])]
    for token, begin, end in zip(logprobs["tokens"], logprobs["text_offset"], ends, strict=True):
        if not token.startswith("bytes:"):
            assert choice["text"][begin:end] == token
    assert server.text(text, max_tokens=0, echo=True) == text


def test_stop_strings_end_the_text_before_them_and_are_never_shown(server):
    whole = server.text("The word", max_tokens=40)
    for begin, length in ((5, 9), (11, 3), (20, 14)):
        stop = whole[begin : begin + length]
        expected = whole[: whole.index(stop)]
        body = dict(max_tokens=40, stop=[*(f"never {i}" for i in range(20)), stop], logprobs=1)
        choice = server.complete("The word", **body)["choices"][0]
        assert choice["text"] == expected and choice["finish_reason"] == "stop"
        assert all(offset < max(len(expected), 1) for offset in choice["logprobs"]["text_offset"])
        events = server.events("/v1/completions", prompt="The word", temperature=0, **body)
        assert "".join(e["choices"][0]["text"] for e in events) == expected
        assert events[-1]["choices"][0]["finish_reason"] == "stop"


def test_several_texts_and_seeds(server):
    def texts(**body):
        choices = server.complete("The", temperature=1, max_tokens=12, **body)["choices"]
        return [c["text"] for c in choices]

    four = texts(n=4, seed=3)
    assert len(set(four)) == 4
    assert texts(n=4, seed=3) == four and texts(seed=3) == four[:1]
    assert texts(seed=4) != four[:1]
    assert texts() != texts()
    usage = server.complete([5, 6], n=3, max_tokens=2)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (2, 6, 8)


def test_logit_bias_moves_the_choice(server):
    first = server.complete("The word", max_tokens=1, logprobs=2)["choices"][0]["logprobs"]
    banned = server.complete("The word", max_tokens=1, logprobs=2, logit_bias={"100": 100})["choices"][0]
    assert banned["logprobs"]["tokens"] != first["tokens"]
    # Log-probabilities are the model's own.
    assert list(banned["logprobs"]["top_logprobs"][0].items())[:2] == list(first["top_logprobs"][0].items())
