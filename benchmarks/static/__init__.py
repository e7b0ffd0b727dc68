"""What a student without attention must beat: fastText, tf-idf with logistic regression and model2vec, side by side."""
