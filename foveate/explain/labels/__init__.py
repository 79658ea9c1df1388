"""Labels for a compressor: relevance over many questions, in resumable files."""
