"""One episode, five programs: each in its own language, each asked, each credited."""
