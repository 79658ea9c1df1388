"""`foveate analyse`: its options, and whether information loss explains accuracy loss."""
