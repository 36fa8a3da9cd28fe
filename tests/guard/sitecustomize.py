"""Run by Python at the start of every child process of the tests."""

import loopback_only

loopback_only.watch()
