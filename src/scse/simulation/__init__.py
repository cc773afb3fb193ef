"""Simulation of subjects from one or a few labelled images: new shapes, new contrasts, exact labels."""
