"""`foveate bench`: its options, the measurements, and their tables."""
