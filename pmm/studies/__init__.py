"""The ablations of notebooks 05 and 07, and the published numbers to compare with."""
