"""The recipe of the model with a pretrained decoder: SmolLM2-135M-Instruct learns to see, and its attention is never supervised.

`travel` carries the decoder's quantised weights to a machine without internet, `quantised` turns them into tensors, `language` writes
prompts, `lessons` draws pictures with packed questions, `model` runs them through the adapted decoder, `align` fits the projector without
the decoder, `adapt` trains with it, `train` is the command, and `judge` measures the result on held-out scenes.
"""
