"""The shop in four services."""
