"""The study: its grid of runs, how long they take, its runner, and what variants cost."""
