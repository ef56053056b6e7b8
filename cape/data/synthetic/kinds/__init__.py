"""How individuals of the categories are built, a file per family."""
