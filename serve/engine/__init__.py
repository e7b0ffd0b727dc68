"""Bantam's own INT8 engine for encoders of the BERT family: C with a thin binding, no framework.

source/   the engine: what is common, and one path_*.c for each kind of processor
build     compiles it; where nobody did, `serve` says so and runs onnxruntime
graph     nodes and constants of an ONNX file, read without the onnx package
network   an artefact's INT8 ONNX file as the layers that the engine knows, or why it declines
heads     which tokens a file's head reads, and what it makes of them
file      a network as the engine's file: packed once, mapped by all workers
library   the compiled functions
scores    softmax and ranked labels, of any model
rehearsal whether a file was understood: part by part against onnxruntime
runtime   what `serve.engines` calls
"""
