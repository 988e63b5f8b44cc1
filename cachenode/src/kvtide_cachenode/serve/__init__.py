"""The data port: connections, requests, replies and the commands."""
