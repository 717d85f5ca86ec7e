"""The explorer: a local page on which a survey's features are looked at, selected and saved."""
