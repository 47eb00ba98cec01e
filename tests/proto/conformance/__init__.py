"""What looks at others must itself be looked at: every rule is broken once, by a peer made for it."""
