"""What the process has, and where its defects go."""
