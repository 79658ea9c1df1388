"""`foveate explain`: its options, and which visual tokens an answer rests on."""
