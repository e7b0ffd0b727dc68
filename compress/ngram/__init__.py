"""N-gram students: which n-grams they know, and how they learn."""
