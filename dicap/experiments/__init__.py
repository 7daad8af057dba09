"""Runs and comparisons of runs: one run, the protocols, the driver, ablations, selection by class hold-out, cost."""
