"""The n-gram student: a text's answer is a small network's on the mean of the rows of its kept word n-grams.

words     splits texts by a table of characters that is part of the model
keys      words and n-grams as 64-bit numbers
lookup    from a key to its row
file      a model, and the file that workers map
plain     text to label in numpy: the reference
library   the same in C, with the same bits
runtime   takes the C where it was built, and numpy elsewhere
encode    the inputs of the same model as an ONNX file, and the rows that training sums
"""
