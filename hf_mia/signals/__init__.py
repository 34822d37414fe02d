"""What to read off the answers, one file a kind of model, and the wrappers that fit every signal."""
