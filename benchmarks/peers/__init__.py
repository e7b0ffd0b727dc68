"""The service beside its peers over HTTP: `python -m benchmarks.peers`."""
