"""The policy, one rule a file: each looks at where the dials are to go, and may hold them back."""
