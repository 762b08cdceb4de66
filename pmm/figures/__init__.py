"""Every plot of the notebooks: style and palette, general panels, and one module a topic."""
