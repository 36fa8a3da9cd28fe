"""Sizes models for a memory budget and keeps them loaded."""
