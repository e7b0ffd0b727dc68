"""Many runs of one question: arms x tasks x seeds, each a `bantam compress` in a folder of its own."""
