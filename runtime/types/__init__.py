"""The frozen values that cross threads and processes: prompts, requests, tasks and events."""
