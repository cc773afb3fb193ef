"""What `fuzz.py` is made of: the sandbox, mutations, and the kinds of input."""
