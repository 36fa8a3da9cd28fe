"""Python runs this at the start of every child process of the tests."""

import loopback_only

loopback_only.watch()
