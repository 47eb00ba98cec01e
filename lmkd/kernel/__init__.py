"""What the kernel knows and does: pressure, memory, processes, signals; and a simulated kernel.

Everything here reads files under a root directory or makes system calls. It does not know what a
level, a class or a deadline is for (lmkd.policy), nor who is told (lmkd.service). It imports the
standard library, trio for the functions that wait, lmkd.model and lmkd.cgroup_paths; and pyroute2, when process
events are opened and not before.
"""
