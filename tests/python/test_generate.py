"""osp generate as its user sees it: chats, penalties and cuts give the text that osp serve gives."""

import json
import shutil

import pytest

MESSAGE = "What is a word?"


@pytest.fixture(scope="module")
def generated(run_program, serve_folder):
    def run(*options, prompt=MESSAGE):
        words = [
            "osp",
            "generate",
            serve_folder,
            "--prompt",
            prompt,
            "--max-tokens",
            "24",
            "--head",
            "16",
            "--json",
        ]
        return json.loads(run_program([*words, *options]).stdout)

    return run


def answer(server, path, body):
    return server.post(path, **{"max_tokens": 24, "temperature": 0, **body})["choices"][0]


def test_a_chat_is_the_chat_of_the_server(generated, server):
    for options, system in (((), []), (("--system", "Be brief."), [("system", "Be brief.")])):
        messages = [{"role": r, "content": c} for r, c in [*system, ("user", MESSAGE)]]
        theirs = answer(server, "/v1/chat/completions", {"messages": messages})
        ours = generated("--chat", *options)
        assert ours["text"] == theirs["message"]["content"]
        assert ours["prompt"].endswith("assistant\n") and MESSAGE in ours["prompt"]
    assert generated("--chat")["text"] != generated()["text"]


def with_template(serve_folder, folder, *parts):
    """The model with a tokenizer that puts its text, A, between these tokens; the id of <|endoftext|>."""
    shutil.copytree(serve_folder, folder)
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    end = next(t for t in tokenizer["added_tokens"] if t["content"] == "<|endoftext|>")
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"Sequence" if part == "A" else "SpecialToken": {"id": part, "type_id": 0}} for part in parts
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            end["content"]: {"id": end["content"], "ids": [end["id"]], "tokens": [end["content"]]}
        },
    }
    file.write_text(json.dumps(tokenizer))
    return end["id"]


def test_a_chat_gets_no_token_in_front_that_its_template_does_not_write(run_program, serve_folder, tmp_path):
    folder = tmp_path / "tiny"
    end = with_template(serve_folder, folder, "<|endoftext|>", "A")
    words = ["osp", "generate", folder, "--prompt", MESSAGE, "--max-tokens", "1", "--json"]
    plain, chat = (
        json.loads(run_program([*words, *more]).stdout)["prompt_tokens"] for more in ([], ["--chat"])
    )
    assert plain[0] == end and end not in chat


@pytest.mark.parametrize("front", [(), ("<|endoftext|>",)], ids=["tail alone", "front and tail"])
def test_the_tail_of_a_template_ends_texts_and_stands_behind_no_prompt(
    run_program, serve_folder, tmp_path, front
):
    """A model that reads the end of a text behind its prompt begins another one."""
    with_template(serve_folder, tmp_path / "without", *front, "A")
    end = with_template(serve_folder, tmp_path / "with", *front, "A", "<|endoftext|>")
    words = ["--prompt", MESSAGE, "--max-tokens", "12", "--json"]
    plain, ended = (
        json.loads(run_program(["osp", "generate", tmp_path / name, *words]).stdout)
        for name in ("without", "with")
    )
    assert plain["prompt_tokens"].count(end) == len(front) and plain["prompt_tokens"][-1] != end
    assert ended["prompt_tokens"] == plain["prompt_tokens"] and ended["text"] == plain["text"]


@pytest.mark.parametrize(
    "body",
    [
        {"repetition_penalty": 1.7},
        {"presence_penalty": 2.0, "frequency_penalty": 1.5},
        {"temperature": 1.0, "seed": 3, "min_p": 0.4},
    ],
    ids=lambda body: ",".join(body),
)
def test_the_server_and_the_command_draw_the_same_tokens(generated, server, body):
    theirs = answer(server, "/v1/completions", {"prompt": MESSAGE, **body})
    options = [word for key, value in body.items() for word in ("--" + key.replace("_", "-"), value)]
    ours = generated(*options)
    assert ours["text"] == theirs["text"]
    assert ours["text"] != generated()["text"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--system", "Be brief."], "--chat"),
        (["--min-p", "1.5"], "min-p"),
        (["--repetition-penalty", "0"], "repetition"),
        (["--presence-penalty", "3"], "presence"),
    ],
)
def test_options_out_of_range_are_named(run_program, serve_folder, options, reason):
    words = ["osp", "generate", serve_folder, "--prompt", "x", *options]
    result = run_program(words, check=False)
    assert result.returncode == 2 and reason in result.stderr


def test_a_template_that_refuses_is_told(run_program, serve_folder, tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    for path in serve_folder.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no chats here') }}")
    words = ["osp", "generate", folder, "--prompt", "x", "--chat"]
    result = run_program(words, check=False)
    assert result.returncode == 3 and "no chats here" in result.stderr
