"""The network that predicts relevance from the first layer's attention, and its training."""
