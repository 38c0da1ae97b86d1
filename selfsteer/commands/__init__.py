"""The commands: one file a subcommand, options in, tables out."""
