"""What the device can do at most: measured in every run, because every share is of these."""

from dataclasses import dataclass

import torch

from switch_gpu_bench.timing import DEVICE, time_device

_BYTES = 4 << 30 if DEVICE == "cuda" else 1 << 24
_SIDE = 8192 if DEVICE == "cuda" else 256
_CACHE = 1 << 20  # of a trial without a GPU


@dataclass(frozen=True)
class Ceilings:
    """Measured rates.

    Attributes:
        copy: GB/s of a copy within the device, bytes read and bytes written.
        read: GB/s of a sum over 4 GiB.
        product: TFLOP/s of a bf16 product 8192 x 8192 x 8192 of random values.
        cache: bytes of the L2 cache.
    """

    copy: float
    read: float
    product: float
    cache: int

    @property
    def bandwidth(self) -> float:
        """GB/s that shares of weight streaming are of: the better of the two."""
        return max(self.copy, self.read)

    def floor(self, moved: float, operations: float) -> float:
        """Return the microseconds that so many bytes and floating-point operations take."""
        return max(moved / self.bandwidth / 1e3, operations / self.product / 1e6)


def _memory() -> tuple[float, float]:
    """Return the microseconds of a copy and of a sum."""
    source = torch.empty(_BYTES // 4, device=DEVICE).normal_()
    target = torch.empty_like(source)
    copied = time_device(lambda: target.copy_(source)).us
    total = torch.empty((), device=DEVICE)
    return copied, time_device(lambda: torch.sum(source, (0,), out=total)).us


def _product() -> float:
    a, b = (torch.randn(_SIDE, _SIDE, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(a)
    return time_device(lambda: torch.mm(a, b, out=product), seconds=0.5).us


def measure() -> Ceilings:
    """Measure the current device."""
    (copied, read), multiplied = _memory(), _product()
    cache = _CACHE
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        cache = torch.cuda.get_device_properties(0).L2_cache_size
    return Ceilings(
        2 * _BYTES / copied / 1e3, _BYTES / read / 1e3, 2 * _SIDE**3 / multiplied / 1e6, cache
    )
