"""The recipe that trains the embedded model."""
