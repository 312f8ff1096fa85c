"""What is measured, and tested, on a machine with a GPU: `make gpu-bench`, `make gpu-test`.

Nothing here needs more than PyTorch, numpy and this repository: no registry, no installation.
"""
