"""Speed and memory, as ratios: against a stated limit, or against a peer in C in the same run.

`python -m tests.bench [NAME …]`. Each module measures one thing and returns rows; nothing here is a test that could
fail on a busy machine, but `--check` turns a ratio over 1 into exit code 1.
"""
