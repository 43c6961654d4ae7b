"""SSNorm, EmbProj, convert and fuse against their equations, transformers, and the program."""

import copy
import os
import pickle
import sys

import pytest
import torch
from safetensors.torch import load_file
from test_py_routing import batch, llama
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
)

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "python"))
import osp.nn

import osp


def uneven(model):
    """Norm weights that are not constant, as those of a trained model."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 2.0)
    return model


@torch.no_grad()
def logits(model):
    return model.eval()(batch()["input_ids"]).logits


def distance(a, b):
    return ((a - b).abs().max() / a.abs().max()).item()


def test_ssnorm_is_its_equation_in_fp32_for_every_type():
    norm = osp.nn.SSNorm(16, eps=1e-3, gain=1.5)
    x = torch.randn(2, 3, 16)
    expected = 1.5 * x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    assert torch.allclose(norm(x), expected, atol=1e-6) and norm.weight.shape == (1,)
    half = x.bfloat16()
    rounded = 1.5 * half.float() / (half.float().square().mean(-1, keepdim=True) + 1e-3).sqrt()
    assert torch.allclose(norm(half).float(), rounded, rtol=2**-8) and norm(half).dtype == torch.bfloat16


def test_a_projection_is_orthogonal_at_first():
    weight = osp.nn.EmbeddingProjection(24).weight
    assert torch.allclose(weight @ weight.T, torch.eye(24), atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_convert_and_fuse_keep_the_logits(tied, tmp_path):
    model = uneven(llama(tie_word_embeddings=tied))
    expected = logits(model)
    said = []
    assert osp.convert(model, report=said.append) is model
    assert len(said) == 2 + tied and distance(expected, logits(model)) < 1e-5
    assert model.model.norm.weight.shape == (1,)
    # As after training: no constants, no orthogonal matrices.
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.02)
    trained = logits(model)
    osp.fuse(model, report=None)
    assert distance(trained, logits(model)) < 1e-5 and type(model.model.embed_tokens) is torch.nn.Embedding
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is LlamaForCausalLM and torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("options", [{}, {"norms": False}, {"projections": False}])
def test_an_unfused_folder_cannot_be_loaded_as_a_plain_model(options, tmp_path):
    model = osp.convert(uneven(llama()), report=None, **options)
    with pytest.raises(ValueError, match=r"push_to_hub.*osp\.fuse"):
        model.save_pretrained(tmp_path, push_to_hub=True)
    # A copy knows it too, and saves its own weights.
    copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    copied.model.embed_tokens.weight.data.mul_(2)
    copied.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert torch.equal(saved["model.embed_tokens.weight"], copied.model.embed_tokens.weight)
    with pytest.raises(ValueError, match="osp_unfused"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"osp\.fuse"):
        LlamaForCausalLM.from_pretrained(tmp_path)
    model.load_state_dict(saved)
    osp.fuse(model, report=None).save_pretrained(tmp_path / "fused")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "fused")
    assert distance(logits(copied), logits(loaded)) < 1e-5


def test_a_converted_model_keeps_its_tables_until_it_is_fused():
    model = osp.convert(llama(), report=None)
    with pytest.raises(ValueError, match=r"osp\.fuse"):
        model.resize_token_embeddings(70)
    half = osp.convert(llama(), report=None)
    half.lm_head = torch.nn.Linear(32, 64, bias=False)
    before = {name: value.clone() for name, value in half.state_dict().items()}
    with pytest.raises(ValueError, match="lm_head has no projection"):
        osp.fuse(half, report=None)
    assert all(torch.equal(value, before[name]) for name, value in half.state_dict().items())
    osp.fuse(model, report=None).resize_token_embeddings(70, mean_resizing=False)
    assert model.lm_head.weight.shape == (70, 32)


def test_what_is_frozen_stays_frozen():
    model = llama(tie_word_embeddings=True).requires_grad_(False)
    model.model.layers[1].requires_grad_(True)
    osp.convert(model, report=None)
    assert all(p.requires_grad == ("layers.1." in name) for name, p in model.named_parameters())
    osp.fuse(model, report=None)
    assert all(p.requires_grad == ("layers.1." in name) for name, p in model.named_parameters())
    model = osp.convert(llama(), report=None)
    model.lm_head.requires_grad_(False)
    assert not osp.fuse(model, report=None).lm_head.weight.requires_grad


def test_parts_can_be_left_out():
    model = osp.convert(llama(), projections=False, report=None)
    model.resize_token_embeddings(70, mean_resizing=False)
    assert type(model.lm_head) is torch.nn.Linear and isinstance(model.model.norm, osp.nn.SSNorm)
    with pytest.raises(ValueError, match="converted already"):
        osp.convert(model)
    with pytest.raises(ValueError, match="nothing to fuse"):
        osp.fuse(llama())


def test_models_of_other_layouts_are_refused_by_name():
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    gemma = GemmaForCausalLM(GemmaConfig(vocab_size=64, head_dim=8, num_key_value_heads=2, **small))
    with pytest.raises(ValueError, match="Gemma"):
        osp.convert(gemma)
    olmo = OlmoForCausalLM(OlmoConfig(vocab_size=64, pad_token_id=0, **small))
    with pytest.raises(ValueError, match=r"input_layernorm \(OlmoLayerNorm\) has no weight"):
        osp.convert(olmo)
    with pytest.raises(ValueError, match="Linear has not the layout of Llama"):
        osp.fuse(torch.nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"has not the layout of Llama: model\.embed_tokens"):
        osp.convert(torch.nn.Sequential(torch.nn.Linear(4, 4)))


def test_a_run_of_the_program_is_fused_as_osp_export_does(run_program, tiny_run, tmp_path):
    run_program(["osp", "export", tiny_run / "model", "--format", "hf", "--out", tmp_path / "fused"])
    theirs = load_file(tmp_path / "fused" / "model.safetensors")
    tensors = load_file(tiny_run / "step-6" / "model.safetensors")
    config = LlamaConfig.from_pretrained(tmp_path / "fused")
    model = osp.convert(LlamaForCausalLM(config), report=None)
    names = {
        "model.embed_proj.weight": "model.embed_tokens.projection.weight",
        "lm_head_proj.weight": "lm_head.projection.weight",
    }
    model.load_state_dict({names.get(name, name): value for name, value in tensors.items()})
    for name, value in osp.fuse(model, report=None).state_dict().items():
        # fp64 products rounded once on both sides.
        assert torch.allclose(value, theirs[name], rtol=1e-6, atol=1e-7), name
