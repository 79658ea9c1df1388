"""What families share: where placeholders, features and tokens lie, and what processors do to pictures."""
