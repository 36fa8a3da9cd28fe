"""Tool-call formats, one file per model family. Grammars and parsers are derived from them."""
