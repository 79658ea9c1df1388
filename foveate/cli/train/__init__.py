"""`foveate train`: its options, and the training of a compressor."""
