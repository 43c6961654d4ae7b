"""A transformers model of Llama's layout into an OSP model with the same logits, and back into a plain one.

    convert    E → E P_in,  W → W P_outᵀ          with P orthogonal: E P_in P_inᵀ = E
               norm weights w → the columns of the linear layers behind them, SSNorm's gain 1
    fuse       E' = E P_inᵀ,  W' = W P_out;  an SSNorm gain γ → the weights [γ, …, γ]

Products are fp64, rounded once (as osp/model/fuse.h).
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from osp.nn import ProjectedEmbedding, ProjectedHead, SSNorm

# Norms of a block, and the linear layers that read them.
READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


@torch.no_grad()
def convert(
    model: nn.Module,
    *,
    norms: bool = True,
    projections: bool = True,
    report: Callable[[str], None] | None = print,
) -> nn.Module:
    """Gives a LlamaForCausalLM, or a model of the same layout, SSNorm and EmbProj, in place; returns it.

    Logits stay the same up to rounding, trained or not. A tied head becomes a table of its own, and what is
    frozen stays frozen. Call it before the optimizer is made and before the model is sharded. `report` gets a
    sentence for each change.

    A converted model is saved and loaded by its own state_dict (which is what the Trainer's checkpoints use).
    Until `fuse` is called, from_pretrained refuses the folders of save_pretrained, and
    resize_token_embeddings raises ValueError for tables with projections.

    Raises ValueError that names what does not have Llama's layout.
    """
    if any(isinstance(module, ProjectedHead | SSNorm) for module in model.modules()):
        raise ValueError("this model is converted already")
    _check_layout(model)
    say = report or (lambda sentence: None)
    if model.lm_head.weight is model.model.embed_tokens.weight:
        tied = model.lm_head.weight
        model.lm_head.weight = nn.Parameter(tied.detach().clone(), requires_grad=tied.requires_grad)
        say("the head, tied to the embedding, has a table of its own")
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}
    if norms:
        _convert_norms(model)
        say(f"{2 * len(model.model.layers) + 1} norms have one scalar; their weights went into the matrices")
    if projections:
        _convert_tables(model)
        width = model.config.hidden_size
        say(f"embedding and head have an orthogonal projection [{width}, {width}] each")
    _guard(model, projections)
    return model


@torch.no_grad()
def fuse(model: nn.Module, report: Callable[[str], None] | None = print) -> nn.Module:
    """Folds what `convert` added into a plain model, in place; returns it. Logits stay up to rounding.

    transformers saves and loads the result. Raises ValueError if nothing is to be fused, if only one of the
    two tables has a projection, or if parameters are sharded; the model is then as before.
    """
    base = getattr(model, "model", None)
    if not hasattr(base, "embed_tokens") or not hasattr(model, "lm_head"):
        raise ValueError(f"{type(model).__name__} has not the layout of Llama: nothing to fuse")
    projected = isinstance(base.embed_tokens, ProjectedEmbedding), isinstance(model.lm_head, ProjectedHead)
    if projected[0] != projected[1]:
        without = "lm_head" if projected[0] else "model.embed_tokens"
        raise ValueError(f"{without} has no projection, and the other table has one: was it replaced?")
    say = report or (lambda sentence: None)
    if any(hasattr(p, "placements") for p in model.parameters()):
        raise ValueError("the parameters are sharded: load them into a whole model first")
    tables = 0
    if isinstance(model.model.embed_tokens, ProjectedEmbedding):
        old = model.model.embed_tokens
        new = nn.Embedding(old.num_embeddings, old.embedding_dim, old.padding_idx, **_like(old.weight))
        _set(new.weight, _exact(old.weight) @ _exact(old.projection.weight).T)
        new.requires_grad_(_is_trained(old))
        model.model.embed_tokens = new
        tables += 1
    if isinstance(model.lm_head, ProjectedHead):
        old = model.lm_head
        new = nn.Linear(old.in_features, old.out_features, bias=False, **_like(old.weight))
        _set(new.weight, _exact(old.weight) @ _exact(old.projection.weight))
        new.requires_grad_(_is_trained(old))
        model.lm_head = new
        tables += 1
    count = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, SSNorm):
                setattr(module, name, _plain_norm(child))
                count += 1
    if not tables and not count:
        raise ValueError("this model has no SSNorm and no projection: nothing to fuse")
    _unguard(model)
    say(f"{tables} projections were multiplied into their tables, {count} norms have a weight per channel")
    return model


def _check_layout(model: nn.Module) -> None:
    """Raises ValueError unless blocks, norms and tables are where Llama has them and compute the same."""
    missing = []

    def has(root: nn.Module, path: str, where: str) -> None:
        try:
            root.get_submodule(path)
        except AttributeError:
            missing.append(f"{where}{path}")

    for path in ("model.embed_tokens", "model.norm", "model.layers", "lm_head"):
        has(model, path, "")
    if not missing:
        for i, block in enumerate(model.model.layers):
            for path in (*READERS, *(reader for readers in READERS.values() for reader in readers)):
                has(block, path, f"model.layers.{i}.")
            for path in ("pre_feedforward_layernorm", "post_feedforward_layernorm"):
                if hasattr(block, path):
                    missing.append(f"(no) model.layers.{i}.{path}")
    if missing:
        raise ValueError(f"{type(model).__name__} has not the layout of Llama: {', '.join(missing[:5])}")
    if type(model.model.embed_tokens) is not nn.Embedding or model.lm_head.bias is not None:
        raise ValueError(
            f"{type(model).__name__}: a plain nn.Embedding and a head without bias are needed, not "
            f"{type(model.model.embed_tokens).__name__}"
        )
    for name, norm in _norms(model):
        if getattr(norm, "weight", None) is None:
            raise ValueError(f"{name} ({type(norm).__name__}) has no weight, so it is no RMSNorm of Llama")
        x = torch.linspace(-1, 2, norm.weight.numel(), device=norm.weight.device)[None]
        eps = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else None
        if eps is None:
            raise ValueError(f"{name} is {type(norm).__name__}, no RMSNorm of Llama's kind")
        expected = x / (x.square().mean() + eps).sqrt() * norm.weight.float()
        # bf16 weights round the result to 2^-8.
        if not torch.allclose(norm(x.to(norm.weight.dtype)).float(), expected, rtol=0.02, atol=0.02):
            raise ValueError(f"{name} ({type(norm).__name__}) does not compute weight · x / rms(x)")


def _norms(model: nn.Module) -> list[tuple[str, nn.Module]]:
    found = [
        (f"model.layers.{i}.{name}", getattr(block, name))
        for i, block in enumerate(model.model.layers)
        for name in READERS
    ]
    return [*found, ("model.norm", model.model.norm)]


def _convert_norms(model: nn.Module) -> None:
    for name, norm in _norms(model):
        parent, _, own = name.rpartition(".")
        owner = model.get_submodule(parent)
        readers = [owner.get_submodule(r) for r in READERS[own]] if own in READERS else [model.lm_head]
        for reader in readers:
            _set(reader.weight, _exact(reader.weight) * _exact(norm.weight))
        new = SSNorm(norm.weight.numel(), norm.variance_epsilon, **_like(norm.weight))
        new.replaced = type(norm)
        new.requires_grad_(norm.weight.requires_grad)
        setattr(owner, own, new)


def _convert_tables(model: nn.Module) -> None:
    old = model.model.embed_tokens
    new = ProjectedEmbedding(
        old.num_embeddings, old.embedding_dim, padding_idx=old.padding_idx, **_like(old.weight)
    )
    _set(new.weight, _exact(old.weight) @ _exact(new.projection.weight))
    new.requires_grad_(old.weight.requires_grad)
    model.model.embed_tokens = new
    head = model.lm_head
    projected = ProjectedHead(head.in_features, head.out_features, **_like(head.weight))
    _set(projected.weight, _exact(head.weight) @ _exact(projected.projection.weight).T)
    projected.requires_grad_(head.weight.requires_grad)
    model.lm_head = projected


# ---- what would lose the projections silently ------------------------------------------------------


def _guard(model: nn.Module, projections: bool) -> None:
    """Replaces methods of transformers that take a converted model for a plain one, until it is fused."""
    plain = getattr(model, "_orig_mod", model)  # behind torch.compile
    if projections:
        plain.resize_token_embeddings = _refuse_to_resize
    plain.save_pretrained = functools.partial(_save_marked, plain)


def _unguard(model: nn.Module) -> None:
    plain = getattr(model, "_orig_mod", model)
    for name in ("resize_token_embeddings", "save_pretrained"):
        plain.__dict__.pop(name, None)


def _refuse_to_resize(*args, **options):
    raise ValueError("the tables have projections, which resizing would lose: call osp.fuse(model) first")


def _save_marked(model: nn.Module, save_directory, is_main_process: bool = True, **options) -> None:
    """save_pretrained, as the Trainer's checkpoints need it, of a folder that from_pretrained refuses.

    from_pretrained would drop the projections with a warning.
    """
    if options.get("push_to_hub"):
        raise ValueError("push_to_hub of a converted model: call osp.fuse(model) first")
    type(model).save_pretrained(model, save_directory, is_main_process=is_main_process, **options)
    if is_main_process:
        path = Path(save_directory) / "config.json"
        config = json.loads(path.read_text())
        # The automatic classes refuse the type, the others miss the file.
        config["model_type"] = "osp_unfused"
        config["transformers_weights"] = "(none before osp.fuse)"
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _is_trained(table: nn.Module) -> bool:
    return table.weight.requires_grad or table.projection.weight.requires_grad


def _plain_norm(norm: SSNorm) -> nn.Module:
    kind = getattr(norm, "replaced", None)
    if kind is None:
        from transformers.models.llama.modeling_llama import LlamaRMSNorm

        kind = LlamaRMSNorm
    plain = kind(norm.width, eps=norm.variance_epsilon).to(**_like(norm.weight))
    plain.weight.fill_(norm.weight.item())
    return plain.requires_grad_(norm.weight.requires_grad)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().double()


def _set(parameter: Tensor, value: Tensor) -> None:
    parameter.copy_(value)


def _like(tensor: Tensor) -> dict:
    return {"device": tensor.device, "dtype": tensor.dtype}
