"""The command line over the rooms of Bantam: compress, serve, benchmarks."""

__version__ = "0.1.0"
