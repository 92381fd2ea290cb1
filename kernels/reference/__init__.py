"""The kernels' ops in numpy, float64 inside: what they compute, without how."""
