"""What a package for a GPU carries beside its kernels: the template of model.py, and the launcher."""
