"""The network that predicts relevance from the first layer's attention, and its training.

Start with `compressor` (the trained object and its file). `network` is the architecture, `train` the training loop, `training_data` reads
labels, and `measures` has the loss and the quality figures.
"""
