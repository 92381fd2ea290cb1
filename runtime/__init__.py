"""Open a package and serve it; imports neither torch nor transformers for a CPU package."""
