"""What nnU-Net searches; a module here is also imported as a top-level one."""
