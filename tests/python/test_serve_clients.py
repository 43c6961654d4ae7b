"""`osp serve` by the clients that people use: the openai package, and lm-eval's local-completions."""

import asyncio
import json
import math
import os
import shutil
import time

import openai
import pytest
from serve_fixture import CONTEXT

# Before lm_eval imports anything of the hub: nothing here may reach for the network.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

CHAT = dict(model="tiny", messages=[{"role": "user", "content": "Hello"}], temperature=0, max_tokens=12)
TEXT = dict(model="tiny", prompt="The word of the house", temperature=0, max_tokens=12)


def address(server):
    return f"http://127.0.0.1:{server.port}/v1"


@pytest.fixture(scope="module")
def client(server):
    # Without retries, so that every error is seen.
    with openai.OpenAI(base_url=address(server), api_key="any", max_retries=0, timeout=60) as made:
        yield made


# ---- openai ---------------------------------------------------------------------------------------


def test_openai_lists_the_model(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "osp"


def test_openai_finds_a_model_whose_name_is_no_plain_word(start_server, serve_folder, tmp_path):
    name = "Größe 1/2 %20?".replace("/", "-")
    shutil.copytree(serve_folder, tmp_path / name)
    named = start_server(tmp_path / name, "--threads", "1")
    with openai.OpenAI(base_url=address(named), api_key="any", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == [name]
        assert client.models.retrieve(name).id == name
        assert client.completions.create(**{**TEXT, "model": name}).model == name
        with pytest.raises(openai.NotFoundError, match="other one"):
            client.models.retrieve("other one")
    assert named.stop() == 0


def test_openai_completion_whole_and_streamed(client, server):
    whole = client.completions.create(**TEXT, logprobs=2)
    choice = whole.choices[0]
    assert choice.text == server.text(TEXT["prompt"], max_tokens=12) and choice.finish_reason == "length"
    assert whole.usage.completion_tokens == 12
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 12
    assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) == 12
    assert choice.logprobs.top_logprobs[0][choice.logprobs.tokens[0]] == choice.logprobs.token_logprobs[0]
    assert choice.logprobs.text_offset[0] == 0
    stream = client.completions.create(
        **TEXT, logprobs=2, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks.pop().usage == whole.usage
    assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text
    tokens = [t for chunk in chunks if chunk.choices[0].logprobs for t in chunk.choices[0].logprobs.tokens]
    assert tokens == choice.logprobs.tokens
    assert {chunk.id for chunk in chunks} == {chunks[0].id} and chunks[0].system_fingerprint.startswith(
        "osp-"
    )


def test_openai_chat_whole_and_streamed(client):
    whole = client.chat.completions.create(**CHAT, logprobs=True, top_logprobs=3)
    message, logprobs = whole.choices[0].message, whole.choices[0].logprobs.content
    assert message.role == "assistant" and message.content and message.refusal is None
    assert len(logprobs) == whole.usage.completion_tokens == 12
    for entry in logprobs:
        assert bytes(entry.bytes).decode(errors="replace") == entry.token
        assert len(entry.top_logprobs) == 3 and entry.logprob <= 0
    # The client raises an error for a final text that a limit has cut: end this one by a stop string.
    stop = message.content[-4:]
    expected = message.content[: message.content.index(stop)]
    ended = {**CHAT, "max_tokens": 40, "stop": stop, "stream_options": {"include_usage": True}}
    with client.chat.completions.stream(**ended) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(pieces) == expected == final.choices[0].message.content
    assert final.usage.prompt_tokens == whole.usage.prompt_tokens and final.usage.completion_tokens <= 12
    assert final.usage.prompt_tokens_details.cached_tokens == 0
    parts = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [
        {"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]  # fmt: skip
    assert client.chat.completions.create(**{**CHAT, "messages": parts}).choices[0].message.content


def test_openai_stop_n_and_seed(client):
    whole = client.completions.create(**TEXT).choices[0].text
    stopped = client.completions.create(**TEXT, stop=[whole[6:9], "never there"])
    assert stopped.choices[0].text == whole[: whole.index(whole[6:9])]
    assert stopped.choices[0].finish_reason == "stop"
    sampled = {**CHAT, "temperature": 1}

    def texts(**more):
        return [c.message.content for c in client.chat.completions.create(**sampled, **more).choices]

    assert texts(n=3, seed=5) == texts(n=3, seed=5) and len(set(texts(n=3, seed=5))) == 3
    assert texts(seed=6) != texts(seed=5) == texts(n=3, seed=5)[:1]
    assert texts(seed=5, presence_penalty=2, frequency_penalty=2, logit_bias={"100": -100})


def test_openai_raises_errors_with_their_parts(client, server, start_server, serve_folder):
    with pytest.raises(openai.NotFoundError) as wrong:
        client.completions.create(**{**TEXT, "model": "gpt-4"})
    assert (wrong.value.code, wrong.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.completions.create(**{**TEXT, "max_tokens": CONTEXT})
    assert wrong.value.code == "context_length_exceeded" and str(CONTEXT) in wrong.value.message
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(**CHAT, response_format={"type": "json_object"})
    assert (wrong.value.code, wrong.value.param) == ("unsupported_parameter", "response_format")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.completions.create(**TEXT, stream=True, extra_body={"tempreature": 1})
    assert wrong.value.param == "tempreature"
    with pytest.raises(openai.RateLimitError) as wrong:
        client.completions.create(**{**TEXT, "prompt": ["x"] * 100}, n=128)
    assert wrong.value.code == "overloaded" and int(wrong.value.response.headers["Retry-After"]) > 0
    locked = start_server(serve_folder, "--threads", "1", environment={"OSP_API_KEY": "k"})
    with openai.OpenAI(base_url=address(locked), api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as wrong:
            stranger.models.list()
        assert wrong.value.code == "invalid_api_key"
    with openai.OpenAI(base_url=address(locked), api_key="k", max_retries=0) as friend:
        assert friend.completions.create(**TEXT).choices[0].text
    assert locked.stop() == 0


def test_openai_client_that_leaves_a_stream_frees_its_place(start_server, serve_folder):
    # Pages for one long text alone.
    narrow = start_server(serve_folder, "--threads", "1", "--cache-mb", "1")
    with openai.OpenAI(base_url=address(narrow), api_key="any", max_retries=0) as client:
        stream = client.completions.create(**{**TEXT, "max_tokens": CONTEXT - 60}, n=100, stream=True)
        next(iter(stream))
        stream.close()
    end = time.monotonic() + 20
    while narrow.metrics()["osp_texts_active"] > 0 or narrow.metrics()["osp_texts_waiting"] > 0:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert narrow.metrics()["osp_texts_cancelled_total"] > 0
    assert narrow.text("The word", max_tokens=4)
    assert narrow.stop() == 0


def test_openai_sixteen_at_once_are_what_each_is_alone(client, server):
    asks = [{**CHAT, "messages": [{"role": "user", "content": f"Number {i} " * (i % 4 * 12 + 1)}]}
            for i in range(16)]  # fmt: skip
    alone = [client.chat.completions.create(**ask).choices[0].message.content for ask in asks]

    async def together():
        async with openai.AsyncOpenAI(base_url=address(server), api_key="any", max_retries=0) as many:
            answers = await asyncio.gather(*(many.chat.completions.create(**ask) for ask in asks))
        return [answer.choices[0].message.content for answer in answers]

    assert asyncio.run(together()) == alone


# ---- lm-eval --------------------------------------------------------------------------------------

PAIRS = [
    ("The word of the", " house and gardens"),
    ("A", " king"),
    ("", "It is a truth"),
    ("It is a truth " * 30, " that all the men and women know."),
    ("Où est le café ?", " — là-bas"),
    ("one two three", " four"),
]


@pytest.fixture(scope="module")
def local_completions(server, serve_folder, tmp_path_factory):
    """local_completions(**options) -> lm-eval's model for this server."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("lm-eval-tokenizer")
    end = "<|endoftext|>"
    file = str(serve_folder / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=file, eos_token=end).save_pretrained(folder)
    return lambda **options: LocalCompletionsAPI(
        model="tiny", base_url=f"{address(server)}/completions", tokenizer=str(folder),
        tokenizer_backend="huggingface", max_length=CONTEXT, max_retries=1, **options)  # fmt: skip


def instances(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=each, idx=i) for i, each in enumerate(arguments)]


def test_lm_eval_gets_the_log_likelihoods_of_osp_score(local_completions, run_program, serve_folder):
    model = local_completions(batch_size=4)
    found = model.loglikelihood(instances("loglikelihood", PAIRS), disable_tqdm=True)
    lines = ""
    for context, continuation in PAIRS:
        # An empty context is the end token, as in lm-eval.
        prefix = [model.prefix_token_id], model.tok_encode(continuation)
        first, rest = model._encode_pair(context, continuation) if context else prefix
        lines += json.dumps({"context": first, "continuation": rest}) + "\n"
    words = ["osp", "score", serve_folder, "--requests", "-", "--quiet", "--head", "16"]
    scores = [json.loads(line) for line in run_program(words, input=lines).stdout.splitlines()]
    for (value, greedy), score in zip(found, scores, strict=True):
        # osp score sums exp in fp32.
        assert value == pytest.approx(score["log_likelihood"], rel=1e-6, abs=1e-5)
        assert greedy == score["greedy"] and math.isfinite(value)
    # Sixteen at a time, or one by one: the same in every digit.
    many, one = local_completions(num_concurrent=16), local_completions(batch_size=1)
    assert many.loglikelihood(instances("loglikelihood", PAIRS)) == found
    assert one.loglikelihood(instances("loglikelihood", PAIRS)) == found


def test_lm_eval_rolls_over_long_texts_and_generates(local_completions, server):
    model = local_completions()
    text = "It is a truth that all the men and women of the house know. " * 80
    rolling = model.loglikelihood_rolling(instances("loglikelihood_rolling", [(text,)]), disable_tqdm=True)
    assert len(model.tok_encode(text)) > CONTEXT and math.isfinite(rolling[0]) and rolling[0] < 0
    # As many stop strings as humaneval has.
    until = ["\nclass", "\ndef", "\n#", "\nif", "\nprint", "\n\n", "Q:"]
    options = {"until": until, "max_gen_toks": 20, "temperature": 0, "do_sample": False}
    asked = [(context, options) for context, _ in PAIRS if context]
    expected = [server.text(context, max_tokens=20, stop=[*until, "<|endoftext|>"]) for context, _ in asked]
    assert model.generate_until(instances("generate_until", asked), disable_tqdm=True) == expected
