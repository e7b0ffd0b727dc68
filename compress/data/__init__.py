"""Datasets as Bantam trains on them: named splits of texts and labels, without leaks between them."""

from compress.data.load import Data, Examples, load

__all__ = ["Data", "Examples", "load"]
