"""What the service tells of itself: counts of all workers, logs, traces."""
