"""A model in a process of its own: whatever ends that process, the one that asks lives on. Knows no HTTP."""
