"""Small parts of the documentation's build."""
