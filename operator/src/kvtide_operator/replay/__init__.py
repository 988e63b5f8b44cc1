"""Plays a trace against servers that speak the Redis protocol, and measures what they answer.

targets.py: which server owns which key · blocks.py: the bytes that stand in for a block · reply.py: bytes to
replies, sans-IO · connection.py: one connection · report.py: counters and figures · player.py: the run.
"""
