"""Reading from and writing to disk.

Start with `writing` (atomic writes) and `records` (typed JSON); `checkpoints` loads models. `locks`, `paths` and `processes` keep
processes from writing to one place, and `limits` bounds the size of pictures.
"""
