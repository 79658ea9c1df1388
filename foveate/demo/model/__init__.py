"""The embedded model's two shapes: configuration, processor and vocabulary."""
