"""`foveate ask`: its options, the answer, and what answering took."""
