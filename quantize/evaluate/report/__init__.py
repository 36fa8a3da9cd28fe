"""An evaluation as tables, plots, a page, or a comparison."""
