"""What the service withstands, measured and judged: `python -m benchmarks.reliability`."""
