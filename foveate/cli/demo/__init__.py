"""`foveate demo`: the embedded model's scenes, its card, and its training."""
