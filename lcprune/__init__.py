"""Local critic training: one training yields a family of smaller networks, and one that stops early."""

__version__ = "0.1.0"
