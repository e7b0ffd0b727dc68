"""What was gained and what was lost: the teacher and its students side by side, measured in one run."""

__all__: list[str] = []
