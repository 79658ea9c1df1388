"""`foveate export`: a model for an inference server. Start with `command`."""
