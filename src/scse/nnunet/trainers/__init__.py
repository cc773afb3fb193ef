"""The folder that nnU-Net searches. It imports the modules here as top-level modules."""
