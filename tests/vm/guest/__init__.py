"""What runs inside the guest: programs that behave in a stated way, and the scenarios they play in."""
