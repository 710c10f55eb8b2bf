"""mmalign: preference alignment for text, vision-language, video and diffusion models through one seam."""

__version__ = "0.1.0"
