"""One file a command: parsing, progress and tables, no logic that another face would need too."""
