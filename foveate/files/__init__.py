"""Everything that is read from or written to disk: whole files, locks, typed records, limits, checkpoints."""
