"""From ATen to the graph: one function an op, found by its name, in a file a family."""
