"""`foveate eval`: its options, a run of evaluations, and its tables."""
