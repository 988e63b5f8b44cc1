"""Who may come in: users and roles, TLS, and files that are read again when they change."""
