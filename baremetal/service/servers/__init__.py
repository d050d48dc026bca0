"""The servers under care: taken in, described, selected, switched by hand."""
