"""What every other package uses: errors, checks, files and times. Nothing here knows what a segmentation is."""
