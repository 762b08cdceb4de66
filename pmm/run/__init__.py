"""One run: its parameters, its folder, its stages, its notebooks, its report."""
