"""Where the source of this project is."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the packages: a checkout, or the site-packages of an installation."""
