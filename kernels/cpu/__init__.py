"""C++ headers that an emitted model.cpp includes, and how they are compiled."""

# None of them changes a value in the default rounding mode. Contraction is off so that `a * b + c` rounds
# alike in every instantiation of a kernel: where a fused multiply-add is meant, the headers spell it. Without
# the two -fno-…, selects and square roots are branches and calls, and row kernels do not vectorise.
COMPILE_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fno-trapping-math",
    "-fno-math-errno",
    "-ffp-contract=off",
    "-fopenmp-simd",
    "-pthread",
    "-fPIC",
    "-shared",
)
