"""Quantisation while training; after training it is the exporter's (`compress.export`)."""
