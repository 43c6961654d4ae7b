"""Integer codes of whole quantized folders against an independent fp64 implementation with its own windows,
forward passes and Hessians (oracles/quantize_methods.py). Controls with one setting changed must differ in
far more codes than the tolerance allows, so that agreement means something."""

import json

import pytest
import torch
from oracles import quantize_methods as oracle
from reference_llama import Shape, random_weights, write_model_dir
from safetensors.torch import load_file
from small_tokenizers import letter_tokenizer
from train_fixture import one_thread

SHAPE = Shape(width=64, heads=4, kv_heads=2, head_size=16, inner=128, layers=3, context=32)
WINDOWS, LENGTH = 32, 32


def channelled_weights():
    """Random weights under gains that differ tenfold between channels, as those of trained models do."""
    weights = random_weights(SHAPE)
    generator = torch.Generator().manual_seed(4)
    for name, weight in weights.items():
        if name.endswith("layernorm.weight"):
            spread = torch.logspace(-0.5, 0.5, weight.numel())
            weight.copy_(spread[torch.randperm(weight.numel(), generator=generator)])
    return weights


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(folder of the model and its text, weights, tokens): one token a character."""
    folder = tmp_path_factory.mktemp("oracle")
    weights = channelled_weights()
    write_model_dir(folder / "model", SHAPE, weights)
    alphabet = [chr(33 + i) for i in range(94)]
    (folder / "model" / "tokenizer.json").write_text(json.dumps(letter_tokenizer(), ensure_ascii=False))
    tokens = torch.randint(0, 94, (4000,), generator=torch.Generator().manual_seed(2)).tolist()
    (folder / "text.txt").write_text("".join(alphabet[i] for i in tokens))
    return folder, weights, tokens


@pytest.fixture(scope="module")
def codes_of(run_program, model):
    """codes_of(method) -> {name: codes [out, in]} that `osp quantize` writes, unpacked here by hand."""
    folder, _, _ = model

    def run(method, *options):
        out = folder / f"{method}-{len(list(folder.iterdir()))}"
        words = ["--bits", "4-16-16", "--tables", "fp32", "--windows", WINDOWS, "--calibration-type", "fp32"]
        words += ["--calibration", folder / "text.txt", "--out", out, "--quiet", *options]
        run_program(["osp", "quantize", folder / "model", "--method", method, *words], env=one_thread())
        tensors, codes = load_file(out / "model.safetensors"), {}
        for name in [n[: -len("_packed")] for n in tensors if n.endswith("_packed")]:
            words = tensors[name + "_packed"]
            nibbles = torch.stack([(words >> (4 * i)) & 15 for i in range(8)], -1).flatten(1)
            codes[name] = nibbles[:, : tensors[name + "_shape"][1]].double() - 8
        assert len(codes) == 7 * SHAPE.layers
        return codes

    return run


def share_that_differs(found, wanted):
    assert found.keys() == wanted.keys()
    different = sum((found[n] != wanted[n]).sum().item() for n in found)
    total = sum(x.numel() for x in found.values())
    print(f"{different} of {total} codes differ")
    return different / total


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread():
    """Small products: threads would wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


METHODS = {
    "gptq": oracle.gptq,
    "gptaq": lambda w, h, d, alpha=0.25, **options: oracle.gptq(w, h, d, alpha=alpha, **options),
    "qronos": oracle.qronos,
}
CONTROLS = {
    "gptq": [{"damping": 1.0}, {"ordered": True}],
    "gptaq": [{"alpha": 1.0}, {"alpha": None}, {"damping": 1.0}],
    "qronos": [{"ordered": False}, {"damping": 1e-1}],
}


def by_oracle(model, round_layer):
    _, weights, tokens = model
    return oracle.quantize(SHAPE, weights, oracle.windows_of(tokens, WINDOWS, LENGTH), round_layer)


@pytest.mark.parametrize("method", METHODS)
def test_codes_are_those_of_the_method_as_published(codes_of, model, method):
    found = codes_of(method)
    # osp sums Hessians and updates weights in fp32: where a weight lies within about 1e-6 of the edge between
    # two codes that decides, and moves what follows in its row.
    assert share_that_differs(found, by_oracle(model, METHODS[method])) <= 0.001
    for change in CONTROLS[method]:
        other = by_oracle(model, lambda w, h, d, change=change: METHODS[method](w, h, d, **change))
        assert share_that_differs(found, other) > 0.1, change


def test_codes_are_those_of_awq_as_published(codes_of, model):
    _, weights, tokens = model
    windows = oracle.windows_of(tokens, WINDOWS, LENGTH)
    found = codes_of("awq")
    assert share_that_differs(found, oracle.awq(SHAPE, weights, windows)) <= 0.001
    for change in ({"ratios": (0.0,)}, {"ratios": (1.0,)}, {"clip": False}):
        assert share_that_differs(found, oracle.awq(SHAPE, weights, windows, **change)) > 0.1, change
