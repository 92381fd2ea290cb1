"""The kernels of the CUDA target: plain files that import torch, triton and each other."""
