"""Pruning: weights, blocks, heads or layers that the student can do without."""
