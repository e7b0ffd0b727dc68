"""Distillation: terms that pull the student towards its teacher, one paper a file."""
