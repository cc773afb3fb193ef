"""The study: its grid of runs, its runner, what variants cost, and the report."""
