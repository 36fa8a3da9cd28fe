"""Which models exist: names, the catalog, installed and imported models, and how files pair up."""
