"""What can be asked for by name, parsed once: options of blocks, variants, networks and patterns of names."""
