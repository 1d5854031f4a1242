"""What happens around the steps of training: one concern per file."""
