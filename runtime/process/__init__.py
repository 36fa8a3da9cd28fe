"""Child processes: how they are started, and the messages that cross to them."""
