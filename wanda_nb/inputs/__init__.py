"""What goes in: pinned files, models, text and tasks."""
