"""Networks of other libraries, and of users, by name."""
