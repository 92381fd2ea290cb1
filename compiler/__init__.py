"""Compile a checkpoint into a package."""
