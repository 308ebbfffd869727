"""lab: measuring, and playing; see README.md."""
