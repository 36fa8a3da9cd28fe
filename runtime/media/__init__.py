"""Decodes untrusted images, audio and video into pixels and samples."""
