"""The heart: readings and time in, verdicts out.

Pure. Modules here import the standard library and lmkd.model, never os, time, trio, logging or random. Time is an
argument, memory a number, a process a value; whatever happened can be run again from its recording.

Where to look: `heart` is the one step; `detect` judges readings; `tell`, `listen` and `escalate` are the three
things done about a judgement; `settings` is everything an administrator can turn.
"""
