"""Where independent tasks are done: in this process, in workers of this machine, or on a Ray cluster."""
