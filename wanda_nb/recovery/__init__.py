"""What a little training wins back."""
