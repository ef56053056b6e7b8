"""Support sets: checked, prepared, and kept in a registry."""
