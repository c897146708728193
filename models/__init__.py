"""Small networks with their training recipes and trained checkpoints; see README.md."""
