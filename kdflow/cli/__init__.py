"""The command lines of kdflow and of its sweeps."""
