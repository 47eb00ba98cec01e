"""The wire protocol: its messages, its frames, its conversations."""
