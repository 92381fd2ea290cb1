"""What an emitted program calls: C++ headers for a CPU, and the layouts of weights in numpy."""
