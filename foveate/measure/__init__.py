"""Speed, memory and quality, measured so that the figures can be trusted: interleaved, as ratios, with their spread."""
