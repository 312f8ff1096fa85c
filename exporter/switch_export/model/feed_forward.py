"""The last sublayer of every block: an MLP, dense or sparse."""

from torch import Tensor, nn

from switch_export.config import SwitchConfig
from switch_export.model.layers import DenseMlp, Norm
from switch_export.moe.op import Experts
from switch_export.moe.router import Capacity, Router
from switch_export.quantize import Precision


class FeedForward(nn.Module):
    """Residual sum and norm, then the MLP or a mixture of experts."""

    def __init__(
        self, config: SwitchConfig, is_sparse: bool, capacity: Capacity, precision: Precision
    ):
        super().__init__()
        if is_sparse:
            self.router = Router(config, capacity)
            self.experts = Experts(config, capacity, precision)
        else:
            self.norm = Norm(config.d_model, config.layer_norm_epsilon)
            self.dense = DenseMlp(config, precision)
        self.is_sparse = is_sparse

    def forward(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Compute.

        Args:
            x, delta: the residual stream and what the sublayer before adds to it, [B, T, D].

        Returns:
            their sum, what this sublayer adds to it, and (expert, gate) [B, T] if sparse.
        """
        if not self.is_sparse:
            x, normed = self.norm(x, delta)
            return x, self.dense(normed), ()
        x, normed, expert, gate = self.router(x, delta)
        return x, self.experts(normed, expert, gate), (expert, gate)
