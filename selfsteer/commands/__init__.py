"""The commands: one file a subcommand, options in, tables out. Each raises what its workflow raises."""
