"""The command line: a small module a subcommand."""
