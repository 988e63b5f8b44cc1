"""The `kvtide` command: one file per sub-command."""
