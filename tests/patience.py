"""How long a test waits for what should come: longer is a hang, and a busy machine is none."""

PATIENCE = 120.0  # seconds
