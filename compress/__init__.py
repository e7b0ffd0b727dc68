"""Builds artefacts: a fine-tuned teacher in, a small student and the proof of what it keeps out."""
