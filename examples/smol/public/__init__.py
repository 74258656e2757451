"""Readers of the public sources that smol's tasks are made from; `../sources.py` runs them."""
