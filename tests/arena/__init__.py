"""The arena: the same workloads under every guard, on the same kind of machine, and what became of them.

`python -m tests.arena` plays, `python -m tests.arena.report` writes docs/arena.md. layer.py fetches the guards from
Debian's packages, contest.py plays runs in a machine of tests.vm, plan.py says which and in what order. Knows the
guards from outside only: each is started by its own unit, lmkd too.
"""
