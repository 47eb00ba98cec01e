"""Fuzzing of everything that takes bytes from outside: frames, kernel files, recordings, configuration.

`make fuzz`, or `python -m tests.fuzz [--inputs N] [--seed N] [TARGET ...]`; `make test` runs a small share of it.

The engine is our own, 300 lines without a dependency: a mutator that knows the words of these formats, over files
captured from real kernels, the protocol's vectors and a recorded episode. It is guided, though not by counting
branches: each way out of a parser is a line that raises or a shape that is returned, so an input that leaves by a way
not seen before joins the corpus. That costs nothing while a parser runs, so most take 10,000 to 100,000 inputs a
second, and it gives the same inputs for the same seed, which is why it runs in `make test` too. It does not solve for
what a comparison wants: the words that are compared with are in its dictionary.
"""
