"""Calls between services: what may be repeated, who is asked at all, and how many at once."""
