"""Which visual tokens an answer rests on, and a small network that learns to tell beforehand."""
