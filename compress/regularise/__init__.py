"""Regularisation: what makes weights or gradients less sharp while a student trains, one paper a file."""
