"""The probe: compiled, loaded and attached by a loader that is gone before anyone connects; read by the daemon."""
