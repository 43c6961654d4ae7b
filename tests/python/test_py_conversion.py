"""SSNorm, EmbProj, convert and fuse against their equations, transformers, and the program."""

import os
import sys

import pytest
import torch
from safetensors.torch import load_file
from test_py_routing import batch, llama
from transformers import AutoModelForCausalLM, GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM

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


def test_parts_can_be_left_out():
    model = osp.convert(llama(), projections=False, report=None)
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
