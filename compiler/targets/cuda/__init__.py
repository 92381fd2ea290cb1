"""The CUDA target: a readable model.py, Triton kernels as source and as cubins of one GPU architecture."""
