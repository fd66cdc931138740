"""Headway takes a Python web app from one server to a fleet without rewriting it.

This package root stays empty on purpose: importing it must cost the user's app nothing.
"""

__version__ = "0.1.0"
