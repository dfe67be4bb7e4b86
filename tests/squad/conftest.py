"""The fixtures of `fixtures.py`, which other folders use too."""

from fixtures import lava, quiet_lava, site, template  # noqa: F401
