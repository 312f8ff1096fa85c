"""The last sublayer of every block: norm, MLP, residual."""

from torch import Tensor, nn

from switch_export.config import SwitchConfig
from switch_export.model.layers import DenseMlp, RmsNorm
from switch_export.moe.op import SparseMlp
from switch_export.moe.router import Capacity


class FeedForward(nn.Module):
    """x + MLP(norm(x)), where the MLP is dense or a mixture of experts."""

    def __init__(self, config: SwitchConfig, is_sparse: bool, capacity: Capacity):
        super().__init__()
        self.norm = RmsNorm(config.d_model, config.layer_norm_epsilon)
        if is_sparse:
            self.sparse = SparseMlp(config, capacity)
        else:
            self.dense = DenseMlp(config.d_model, config.d_ff, config.activation)
        self.is_sparse = is_sparse

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x [B, T, D] -> x, and (expert, gate) [B, T] if sparse, else nothing."""
        normed = self.norm(x)
        if not self.is_sparse:
            return x + self.dense(normed), ()
        y, expert, gate = self.sparse(normed)
        return x + y, (expert, gate)
