"""Names of options on the command line, in addition to those of the parameters."""

REPEATED = {
    "bands", "methods", "losses", "feature_sets", "columns", "numbers", "object_ids", "bad_planes", "ids",
}  # fmt: skip
MORE_NAMES = {
    "out": ["-o"],
    "bands": ["-b"],
    "catalogue": ["-c"],
    "methods": ["-m"],
    "method": ["-m"],
    "label_column": ["--target"],
    "options": ["--set"],
    "ids": ["--object-id"],
    "object_ids": ["--id"],
}


def option_names(name: str) -> list[str]:
    """Return the names of an option; ``--bands`` is also ``--band``, which reads better when repeated."""
    names = [name]
    if name in REPEATED:
        names.insert(0, name.removesuffix("es") if name.endswith("sses") else name.removesuffix("s"))
    return [*(f"--{alias.replace('_', '-')}" for alias in names), *MORE_NAMES.get(name, [])]
