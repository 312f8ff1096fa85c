"""Print what nvcc calls the architecture of the first GPU, e.g. 90a; fail where there is none."""

import sys

try:
    import torch
except ImportError:
    sys.exit("*** this needs a Python with PyTorch: make GPU_PYTHON=...")
if not torch.cuda.is_available():
    sys.exit(f"*** no CUDA device (torch {torch.__version__}): this needs a machine with one")
major, minor = torch.cuda.get_device_capability(0)
if (major, minor) < (8, 0):
    sys.exit(f"*** {torch.cuda.get_device_name(0)} is sm_{major}{minor}, the kernels need sm_80")
print(f"{major}{minor}{'a' if (major, minor) == (9, 0) else ''}")
