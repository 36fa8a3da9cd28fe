"""Decodes images, audio and video from untrusted bytes."""
