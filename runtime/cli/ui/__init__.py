"""Code that the commands share: options, tables and progress bars."""
