"""One file a check: `check(place)` starts what it needs, and says what it found and what of that must not be."""
