"""The download format: an artefact whose ONNX files are stored without the zeros of pruned weights.

onnx_file   where the large constants lie in an ONNX file
blocks      one constant as a bit mask of blocks and the values of those that are kept
container   an ONNX file as a safetensors file, and back, byte for byte
pack        artefact -> packed artefact
unpack      packed artefact -> artefact; `serve.artefact.load` does it by itself
ratios      what is gained, counted in several honest ways
"""
