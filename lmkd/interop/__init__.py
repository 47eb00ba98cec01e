"""Interfaces that programs already speak: who listens to one of them needs no client of ours.

Each is a bridge, switched on by [interop] in the configuration. A bridge is shown every action of the heart, keeps what
concerns it without waiting, and tells the other side in a task of its own: the latest word only, never a queue. It
knows the words of lmkd.model and the actions of lmkd.policy; of kernel, readings and verdicts it knows nothing.

Whatever goes wrong with a bridge stays with it: it is said once, tried again, and nothing else waits for it.
"""
