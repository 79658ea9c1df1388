"""Information loss against accuracy."""
