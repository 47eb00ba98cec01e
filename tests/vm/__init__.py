"""Tests on a real kernel, under real memory pressure, in a virtual machine: the last word on what matters.

machine.py boots it and runs commands in it, image.py builds what it boots; init.sh and agent.sh are the
guest's side. A test asks for the fixture vm_zram or vm_noswap. Knows nothing of lmkd's insides: what runs in
the guest is a program of this repository, started as a user would start it.
"""
