"""The accounts of a server: its API keys and its audit log, of which it may have one, both or none."""

from __future__ import annotations

from ....models.errors import Unauthorized
from ...config import ServerConfig
from .audit import AuditLog
from .keys import ApiKeys
from .record import RequestRecord


class Accounts:
    """Raises `ConfigError` if the file of keys has a mistake, or a file cannot be opened."""

    def __init__(self, config: ServerConfig) -> None:
        has_keys = config.api_key is not None or config.api_keys_file is not None
        self.keys = ApiKeys(config.api_keys_file, config.api_key) if has_keys else None
        self._audit_log = None if config.audit_log is None else AuditLog(config.audit_log)

    @property
    def are_needed(self) -> bool:
        """Whether requests must be recorded."""
        return self.keys is not None or self._audit_log is not None

    def write(self, record: RequestRecord) -> None:
        """Writes the audit log's line about a request that has ended."""
        if self._audit_log is not None:
            self._audit_log.write(record.audit_line())

    def batch_record(self, endpoint: str, owner: str | None) -> RequestRecord | None:
        """Returns the record of a line of a batch, whose `owner` is the name of the key that created it.

        Raises `Unauthorized` if the server no longer has that key.
        """
        if not self.are_needed:
            return None
        account = None if self.keys is None or owner is None else self.keys.named(owner)
        if self.keys is not None and account is None:
            raise Unauthorized("the API key that created the batch is no longer accepted")
        return RequestRecord("POST", endpoint, "unknown", account, self.write)

    def reload(self) -> None:
        """Reads the file of keys again, and opens the audit log again. Raises `ConfigError`."""
        if self._audit_log is not None:
            self._audit_log.reopen()
        if self.keys is not None:
            self.keys.reload()

    def close(self) -> None:
        if self._audit_log is not None:
            self._audit_log.close()
