"""One page out of results."""
