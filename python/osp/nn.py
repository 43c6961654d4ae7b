"""The layers of OSP (arXiv 2506.19697): SSNorm and EmbProj, with the tables that hold EmbProj.

    SSNorm     y = γ · x / sqrt(mean(x²) + eps)              γ one scalar for all channels
    EmbProj    x = E[tokens] · P_inᵀ;   logits = (h · P_outᵀ) · Wᵀ

Shapes: x [..., D], tokens [...], E and W [V, D], P [D, D].
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from osp import native


class SSNorm(nn.Module):
    """RMSNorm with one scalar gain: `weight` has shape [1] (FSDP2 refuses parameters without dimension).

    The mean, the root and the product are fp32 (fp64 for fp64) whatever the type of x; the result has the
    type of x. Eager passes on a CPU take the kernels of osp.native where they are there.
    """

    def __init__(self, width: int, eps: float = 1e-5, gain: float = 1.0, device=None, dtype=None) -> None:
        super().__init__()
        self.width, self.variance_epsilon = width, eps
        self.weight = nn.Parameter(torch.full((1,), float(gain), device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1:] == (self.width,) and native.serves(x, self.weight):
            return native.ss_norm(x, self.weight, self.variance_epsilon)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        y = functional.rms_norm(exact, (self.width,), eps=self.variance_epsilon)
        return (y * self.weight.to(exact.dtype)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.width}, eps={self.variance_epsilon}"


class EmbeddingProjection(nn.Linear):
    """x · Pᵀ with P [D, D] orthogonal at first. Muon trains it; `osp.fuse` folds it into its table."""

    def __init__(self, width: int, device=None, dtype=None) -> None:
        super().__init__(width, width, bias=False, device=device, dtype=dtype)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A random orthogonal matrix."""
        exact = torch.empty(self.weight.shape, device=self.weight.device)
        if not exact.is_meta:
            self.weight.copy_(nn.init.orthogonal_(exact))


class ProjectedEmbedding(nn.Embedding):
    """A lookup table with EmbProj behind it; `weight` is the table."""

    def __init__(self, num_embeddings: int, embedding_dim: int, **options) -> None:
        super().__init__(num_embeddings, embedding_dim, **options)
        kept = {name: options[name] for name in ("device", "dtype") if name in options}
        self.projection = EmbeddingProjection(embedding_dim, **kept)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.projection(super().forward(tokens))


class ProjectedHead(nn.Linear):
    """A head with EmbProj in front of it; `weight` is the table of the head."""

    def __init__(self, in_features: int, out_features: int, device=None, dtype=None) -> None:
        super().__init__(in_features, out_features, bias=False, device=device, dtype=dtype)
        self.projection = EmbeddingProjection(in_features, device=device, dtype=dtype)

    def forward(self, h: Tensor) -> Tensor:
        return super().forward(self.projection(h))
