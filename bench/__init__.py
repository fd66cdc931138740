"""Headway and what people use today, side by side in one run on the reader's machine: `make bench`."""
