"""Parts of a terminal command that all commands share."""
