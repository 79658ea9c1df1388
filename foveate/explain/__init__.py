"""Which visual tokens an answer rests on, and a small network that learns to predict it.

`relevance` traces an answer back to its visual tokens (start with `relevance/relevance.py`), `labels` does so for a whole data set, and
`compressor` trains a network on those labels. `foveate.methods.explainer` uses that network to choose tokens.
"""
