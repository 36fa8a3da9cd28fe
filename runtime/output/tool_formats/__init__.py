"""How families of models write tool calls: one file for each, from which both grammar and parser are made."""
