"""The explorer: a local web page for viewing, selecting and saving the objects of a run."""
