"""Models larger than memory, and files: read, pruned and written block by block."""
