"""`foveate labels`: its options, and the labels that a compressor learns from."""
