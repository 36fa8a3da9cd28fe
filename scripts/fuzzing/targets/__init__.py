"""The fuzz targets. Each module defines a `TARGET`."""
