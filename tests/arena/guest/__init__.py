"""What runs inside the guest: the workloads' programs, the guards' units, and the measuring of one run."""
