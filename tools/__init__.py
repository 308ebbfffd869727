"""tools: what is not the subject; see README.md."""
