"""The kind of fault: files beside the weights decide what a model does, and a command passes over them. End
tokens that stand in generation_config.json alone stop every command that writes text, and every format keeps
them; files that nobody knows are carried over.

The model writes the alphabet: after each character it says the next one, at any number of bits."""

import json

import pytest
import torch
from safetensors.torch import save_file
from small_tokenizers import letter_tokenizer

ID = {chr(33 + i): i for i in range(94)}
ENDS = [ID["~"], ID["f"]]  # the second is what a text meets
UNKNOWN = {"NOTICE.of-nobody": b"what \xff is", "extra/table.dat": bytes(range(256))}
CHAT_TEMPLATE = "{{ messages[0]['content'] }}"


def write_alphabet(folder, ends=ENDS):
    """A Llama whose head maps the embedding of a token to the next token, past layers that do little."""
    vocabulary = width = 96
    draw = torch.Generator().manual_seed(0)
    unit = torch.eye(vocabulary)
    weights = {"model.embed_tokens.weight": unit, "model.norm.weight": torch.ones(width),
               "lm_head.weight": unit.roll(1, 0).contiguous()}  # fmt: skip
    for layer in range(2):
        stem = f"model.layers.{layer}."
        for name, shape in {"self_attn.q_proj": (96, 96), "self_attn.k_proj": (96, 96),
                            "self_attn.v_proj": (96, 96), "self_attn.o_proj": (96, 96),
                            "mlp.gate_proj": (64, 96), "mlp.up_proj": (64, 96),
                            "mlp.down_proj": (96, 64)}.items():  # fmt: skip
            weights[f"{stem}{name}.weight"] = torch.randn(shape, generator=draw) * 1e-3
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{stem}{name}.weight"] = torch.ones(width)
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width,
              "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 3, "head_dim": 32,
              "num_key_value_heads": 3, "vocab_size": vocabulary, "max_position_embeddings": 4096,
              "rms_norm_eps": 1e-5, "tie_word_embeddings": False}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(letter_tokenizer(), ensure_ascii=False))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "top_k": 3}))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    for name, content in UNKNOWN.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def models(run_program, tmp_path_factory):
    """Every form in which the alphabet is stored: name -> path."""
    base = tmp_path_factory.mktemp("alphabet")
    made = {"source": write_alphabet(base / "source")}

    def osp(*words):
        run_program(["osp", *words, "--quiet"])

    def export(name, source, *more):
        made[name] = base / ("m.gguf" if name == "gguf" else name)
        words = ["--format", name.removesuffix("-quantized"), "--out", made[name], *more]
        osp("export", made[source], *words)

    made["average"] = base / "average"
    osp("average", made["source"], made["source"], "--out", made["average"])
    export("hf", "source")
    export("gguf", "source")
    for name, bits in (("quantized", "4-4-4"), ("weights", "4-16-16")):
        made[name] = base / name
        osp("quantize", made["source"], "--method", "rtn", "--profile", "best", "--bits", bits, "--out",
            made[name])  # fmt: skip
    export("panels", "quantized")
    export("gptq", "weights")
    export("hf-quantized", "quantized")
    return made


FORMS = ["source", "average", "hf", "gguf", "quantized", "panels", "gptq", "hf-quantized"]


@pytest.mark.parametrize("form", FORMS)
def test_generate_stops_at_an_end_of_the_list(run_program, models, form):
    words = ["--prompt", "a", "--max-tokens", "9", "--json"]
    answer = json.loads(run_program(["osp", "generate", models[form], *words]).stdout)
    assert (answer["text"], answer["finish"]) == ("bcde", "end")
    # So it would have gone on.
    words[1] = "f"
    assert json.loads(run_program(["osp", "generate", models[form], *words]).stdout)["text"] == "ghijklmno"


@pytest.mark.parametrize("form", FORMS)
def test_score_stops_at_an_end_of_the_list(run_program, models, form):
    line = json.dumps({"context": "a", "max_tokens": 9}) + "\n"
    assert json.loads(run_program(["osp", "score", models[form]], input=line).stdout)["text"] == "bcde"


@pytest.mark.parametrize("form", ["quantized", "panels"])
def test_the_server_stops_at_an_end_of_the_list(start_server, models, form):
    server = start_server(models[form])
    choice = server.complete("a", max_tokens=9)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("bcde", "stop")
    assert server.text("f", max_tokens=3) == "ghi"
    chat = {"messages": [{"role": "user", "content": "a"}], "temperature": 0, "max_tokens": 9}
    choice = server.post("/v1/chat/completions", **chat)["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("bcde", "stop")
    assert server.stop() == 0


def test_a_benchmark_that_generates_stops_at_an_end_of_the_list(run_program, tmp_path):
    """A question of gsm8k ends in "Answer:", so the model goes on with ;<=>? and so on."""
    model = write_alphabet(tmp_path / "model", [ID["~"], ID["B"]])
    (tmp_path / "gsm8k").mkdir()
    records = [{"question": f"How many is {n}?", "answer": f"{n}\n#### {n}"} for n in range(9)]
    for split in ("train", "test"):
        (tmp_path / "gsm8k" / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    run_program(["osp", "eval", model, "--data", tmp_path, "--tasks", "gsm8k", "--limit", "2",
                 "--save-items", tmp_path / "items.jsonl"])  # fmt: skip
    items = [json.loads(line) for line in (tmp_path / "items.jsonl").open()]
    assert [item["text"] for item in items] == [";<=>?@A"] * 2


@pytest.mark.parametrize("form", [form for form in FORMS if form != "gguf"])
def test_the_list_and_files_that_nobody_knows_are_carried_over(models, form):
    source = models["source"]
    for name in ("generation_config.json", "chat_template.jinja", *UNKNOWN):
        assert (models[form] / name).read_bytes() == (source / name).read_bytes(), name
    # Programs that look into config.json alone find it there.
    if form != "source":
        assert json.loads((models[form] / "config.json").read_text())["eos_token_id"] == ENDS


def test_a_gguf_file_names_both_ends(models):
    gguf = pytest.importorskip("gguf")
    fields = gguf.GGUFReader(models["gguf"]).fields
    found = [fields[f"tokenizer.ggml.{name}_token_id"].contents() for name in ("eos", "eot")]
    assert found == ENDS
