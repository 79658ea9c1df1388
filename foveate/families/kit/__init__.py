"""Helpers that families share, public for authors of families.

Start with `layout` (`Layout`, `ImageTokens`, `place`: where tokens lie in a prompt) and `regions` (where they lie in a picture). `features`
reads encoder calls, `runs` finds runs of placeholders, `processors` and `anyres` know what processors do, and `towers` what towers do.
"""
