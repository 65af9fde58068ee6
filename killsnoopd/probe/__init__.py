"""The probe: the loader compiles, loads and attaches it; the daemon reads it."""
