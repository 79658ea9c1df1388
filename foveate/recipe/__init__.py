"""The recipe that trains the embedded model.

Start with `train` (the whole run). `tower` and `decoder` are its two phases, `loop` runs a phase and resumes it, `optimise` and `muon`
are the optimiser, and `card` measures the result and writes the model card.
"""
