"""A study's results as tables and plots: read from its study.json, whoever wrote it."""
