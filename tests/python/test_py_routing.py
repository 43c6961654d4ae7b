"""Routing by module, the check of a first step, and transformers' Trainer."""

import copy
import os
import sys

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    Trainer,
    TrainingArguments,
)

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "python"))
import osp
import osp.optim


def llama(kind=LlamaForCausalLM, seed=0, **options):
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=64, num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, **shape, **options
    )
    return kind(config)


def batch(seed=3, rows=8, length=24):
    ids = torch.randint(0, 64, (rows, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids}


def rules(model, **options):
    groups = osp.optim.param_groups(model, lr=0.01, **options)
    names = [name for group in groups for name in group["param_names"]]
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    held = [id(p) for group in groups for p in group["params"]]
    assert len(names) == len(set(names)) == len(held) and set(held) == trainable
    return {name: g["optimizer"] for g in groups for name in g["param_names"]}


@pytest.mark.parametrize("tied", [True, False])
def test_a_llama_is_routed_by_module(tied):
    model = llama(tie_word_embeddings=tied)
    found = rules(model)
    assert found["model.embed_tokens.weight"] == "adamw"
    assert found.get("lm_head.weight") == (None if tied else "adamw")
    assert sum(rule == "muon" for rule in found.values()) == 2 * 7
    assert all(rule == "adamw" for name, rule in found.items() if "norm" in name)
    assert "gain" in rules(model, gain_rule="reference").values()
    table = osp.optim.param_groups(model, lr=0.01).table
    assert "model.layers.*.mlp.down_proj.weight" in table and "lookup table" in table


def test_a_converted_model_has_its_projections_under_muon_and_its_gains_under_their_rule():
    found = rules(osp.convert(llama(), report=None))
    assert found["model.embed_tokens.projection.weight"] == found["lm_head.projection.weight"] == "muon"
    assert found["model.norm.weight"] == "gain" and found["lm_head.weight"] == "adamw"


def test_other_models_are_routed_or_refused_by_name():
    assert rules(llama(LlamaForSequenceClassification))["score.weight"] == "adamw"

    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(50, 8)
            self.conv = nn.Conv1d(8, 8, 3)
            self.attention = nn.MultiheadAttention(8, 2)
            self.inner = nn.Linear(8, 8)
            self.inner.lora_A = nn.ModuleDict({"default": nn.Linear(8, 2, bias=False)})
            self.norm = nn.LayerNorm(8)
            self.head = nn.Linear(8, 50)

    found = rules(Other())
    assert found["table.weight"] == found["conv.weight"] == found["head.weight"] == "adamw"
    assert found["inner.weight"] == found["attention.in_proj_weight"] == "muon"
    assert found["inner.lora_A.default.weight"] == found["norm.bias"] == "adamw"

    model = Other()
    model.state_matrix = nn.Parameter(torch.zeros(4, 4))
    with pytest.raises(ValueError, match=r"no rule for state_matrix \[4, 4\] of Other"):
        osp.optim.param_groups(model)
    assert rules(model, overrides={"state_*": "muon", "inner.weight": "adamw"})["state_matrix"] == "muon"
    with pytest.raises(ValueError, match="fits no trainable parameter"):
        osp.optim.param_groups(model, overrides={"state_*": "muon", "nowhere": "adamw"})
    with pytest.raises(ValueError, match="fits two patterns"):
        osp.optim.param_groups(model, overrides={"state_*": "muon", "*matrix": "adamw"})
    model.inner.requires_grad_(False)
    assert "inner.weight" in osp.optim.param_groups(model, overrides={"state_*": "muon"}).frozen
    with pytest.raises(ValueError, match="no parameter of this model is a hidden matrix"):
        osp.optim.param_groups(nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4)))


def test_a_hidden_matrix_is_no_head_because_a_table_has_its_shape():
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, tie_word_embeddings=False, **shape))
    found = rules(model)
    assert sum(rule == "muon" for rule in found.values()) == 2 * 7 and found["lm_head.weight"] == "adamw"


class Positions(nn.Module):
    """As nanoGPT, with a table of positions of as many rows as the inner layer is wide."""

    def __init__(self, tied, layers=2):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(100, 16), nn.Embedding(64, 16)
        self.up = nn.ModuleList(nn.Linear(16, 64, bias=False) for _ in range(layers))
        self.head = nn.Linear(16, 100, bias=False)
        if tied:
            self.head.weight = self.tokens.weight


@pytest.mark.parametrize("layers", [1, 2])
def test_matrices_that_may_be_heads_or_hidden_are_refused_by_name(layers):
    assert rules(Positions(True, layers))["up.0.weight"] == "muon"
    model = Positions(False, layers)
    with pytest.raises(ValueError, match=r"no rule for up\.0\.weight .*head\.weight.* Say what they are"):
        osp.optim.param_groups(model)
    found = rules(model, overrides={"up.*": "muon", "head.weight": "adamw"})
    assert found["up.0.weight"] == "muon" and found["head.weight"] == "adamw"


def test_a_misspelt_option_is_refused_by_name():
    with pytest.raises(TypeError, match="param_groups has no option momentun"):
        osp.optim.param_groups(llama(), momentun=0.5)
    groups = osp.optim.param_groups(llama(), momentum=0.5, adam_eps=1e-6, fused=True)
    assert groups[0]["momentum"] == 0.5 and osp.optim.Muon(groups).param_groups[0]["adam_eps"] == 1e-6


def test_a_flattened_matrix_is_not_silently_a_vector():
    model = llama()
    layer = model.model.layers[0].mlp.up_proj
    layer.weight = nn.Parameter(layer.weight.detach().flatten())
    with pytest.raises(ValueError, match=r"mlp.up_proj.weight \[1536\]"):
        osp.optim.param_groups(model)


def test_check_proves_muon_and_changes_nothing():
    model = osp.convert(llama(), report=None)
    optimizer = osp.optim.Muon(osp.optim.param_groups(model, lr=0.01))
    before = copy.deepcopy(model.state_dict())
    report = osp.optim.check(model, optimizer, batch())
    assert report.num_matrices == 2 * 7 + 2 and "lm_head.weight" in str(report)
    for row in report.rows:
        assert (row.muon > 0.98) == (row.expected == "muon")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not optimizer.state and optimizer.param_groups[0]["lr"] == 0.01
    assert all(p.grad is None for p in model.parameters())


def test_check_takes_a_gradient_of_zero_for_none():
    model = llama()
    for block in model.model.layers:
        nn.init.zeros_(block.mlp.down_proj.weight)
        nn.init.zeros_(block.self_attn.o_proj.weight)
    optimizer = osp.optim.Muon(osp.optim.param_groups(model, lr=0.01))
    report = osp.optim.check(model, optimizer, batch())
    # Only the outputs of the branches have a gradient in the first step.
    assert report.num_matrices == 2 * 2 and "model.layers.0.mlp.up_proj.weight" in report.without_gradient
    assert "without gradient" in str(report)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with pytest.raises(ValueError, match=r"down_proj\.weight: not orthogonalised"):
        osp.optim.check(model, optimizer, batch())


@pytest.mark.parametrize(
    "options",
    [{"ns_steps": 1}, {"coefficients": (1.5, -0.5, 0.0), "ns_steps": 2}, {"coefficients": "polar-express"}],
)
def test_check_compares_with_the_groups_own_iteration(options):
    model = llama()
    optimizer = osp.optim.Muon(osp.optim.param_groups(model, lr=0.01), **options)
    report = osp.optim.check(model, optimizer, batch())
    assert min(row.muon for row in report.rows if row.expected == "muon") > 0.99
    # A gradient of low rank, whose roundings the iteration enlarges.
    few = osp.optim.check(model, optimizer, batch(rows=1, length=3))
    assert min(row.muon for row in few.rows if row.expected == "muon") > 0.99
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("proj.weight"))
    theirs = torch.optim.Muon([p for p in model.parameters() if p.requires_grad], 0.01, ns_steps=2)
    assert osp.optim.check(model, theirs, batch()).num_matrices == 14


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "Muon everywhere"])
def test_check_refuses_what_is_not_muon_on_hidden_matrices_alone(kind):
    model = llama()
    if kind == "Muon everywhere":
        matrices = [p for p in model.parameters() if p.dim() == 2]
        vectors = [p for p in model.parameters() if p.dim() == 1]
        optimizer = osp.optim.Muon([{"params": matrices}, {"params": vectors, "optimizer": "adamw"}], 0.01)
        message = "lm_head.weight: orthogonalised, although it is for adamw"
    else:
        optimizer = getattr(torch.optim, kind)(model.parameters(), 0.01)
        message = rf"layers.0.self_attn.q_proj.weight: not orthogonalised .* that of {kind}"
    with pytest.raises(ValueError, match=message):
        osp.optim.check(model, optimizer, batch())
    part = osp.optim.Muon([model.model.layers[0].mlp.up_proj.weight], 0.01)
    with pytest.raises(ValueError, match=r"down_proj\.weight: the optimizer does not have it"):
        osp.optim.check(model, part, batch())


class MuonThatIsSGD(osp.optim.Muon):
    """What a wrapper of mixed precision made of Muon elsewhere: the loss goes down, and nothing is said."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                buffer.mul_(group["momentum"]).add_(p.grad)
                p.sub_(p.grad + buffer * group["momentum"], alpha=group["lr"])


class MuonOfShards(osp.optim.Muon):
    """What tensor parallelism made of it elsewhere: every rank orthogonalises its rows by themselves."""

    def _orthogonalise(self, task, update):
        return torch.cat([super(MuonOfShards, self)._orthogonalise(task, half) for half in update.chunk(2)])


@pytest.mark.parametrize(
    "kind, like", [(MuonThatIsSGD, "that of SGD"), (MuonOfShards, "neither SGD nor AdamW")]
)
def test_check_refuses_a_muon_that_silently_is_something_else(kind, like):
    model = llama()
    optimizer = kind(osp.optim.param_groups(model, lr=0.01))
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(**batch()).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    with pytest.raises(ValueError, match=rf"layers.1.self_attn.q_proj.weight: not orthogonalised .* {like}"):
        osp.optim.check(model, optimizer, batch())


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, i):
        return {name: value[0] for name, value in batch(seed=i, rows=1, length=16).items()}


def trainer(model, folder, callbacks=(), **options):
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=4,
        save_steps=2,
        logging_steps=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        lr_scheduler_type="constant",
    )
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=Rows(),
        optimizer_cls_and_kwargs=osp.optim.for_trainer(lr=0.02, **options),
        callbacks=list(callbacks),
    )


def test_the_trainer_trains_with_muon_watches_and_resumes(tmp_path):
    model = osp.convert(llama(), report=None)
    watch = osp.watch(model, every=2)
    run = trainer(model, tmp_path, [watch.callback()], adam_lr=0.01, momentum=0.9)
    run.train()
    optimizer = run.optimizer.optimizer
    assert isinstance(optimizer, osp.optim.Muon) and optimizer.num_orthogonalised == 16
    rates = {group["optimizer"]: (group["lr"], group["momentum"]) for group in optimizer.param_groups}
    assert rates == {"muon": (0.02, 0.9), "adamw": (0.01, 0.9), "gain": (0.02, 0.9)}
    seen = [entry for entry in run.state.log_history if "excess_kurtosis" in entry]
    assert [entry["step"] for entry in seen] == [0, 2] and len(seen[0]["excess_kurtosis_per_layer"]) == 3
    with pytest.raises(ValueError, match="osp_unfused"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-2")
    # From its checkpoint the run ends in the same weights.
    other = osp.convert(llama(seed=9), report=None)
    resumed = trainer(other, tmp_path, adam_lr=0.01, momentum=0.9)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, value in model.state_dict().items():
        assert torch.allclose(value, other.state_dict()[name], atol=1e-6), name
