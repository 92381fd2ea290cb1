"""What an emitted program calls: C++ headers for a CPU, Triton for CUDA, and the same ops in numpy as their specification."""
