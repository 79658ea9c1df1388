"""Speed and memory: prefill, decoding, method and host, measured against the ideal."""
