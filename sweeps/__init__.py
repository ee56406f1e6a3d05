"""Optuna studies that search the parameters of `distill`: one file each, all run by the driver."""
