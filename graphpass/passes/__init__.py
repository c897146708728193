"""Passes: one change to a graph each, one small file each, named by verb and noun."""
