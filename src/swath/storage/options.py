"""What a user says of an object store, and what of it nobody else may see."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swath.errors import OptionError

# What may travel to other processes, and be seen. All else may be a secret: processes find theirs in their environment.
_PUBLIC = re.compile(
    "region|endpoint|endpoint_url|bucket|virtual_hosted_style_request|skip_signature|unsigned_payload|request_payer|account_name|"
    "container_name|use_emulator|conditional_put|base_url|proxy_url|user_agent|allow_.*|.*timeout"
)
_CLIENT = re.compile("allow_.*|.*timeout|proxy_.*|user_agent|http[12]_.*|pool_.*|default_(headers|content_type)")
_PROVIDER = "credential_provider"
_ENDPOINTS = ("endpoint", "endpoint_url")
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")

# Those that most need, by the first letter of a URL.
_USUAL = {
    "s": "endpoint, region, access_key_id, secret_access_key, skip_signature and allow_http",
    "g": "service_account, application_credentials and skip_signature",
    "a": "account_name, account_key, sas_token and skip_signature",
    "h": "allow_http and timeout",
}
_PREFIXES = ("aws_", "azure_storage_", "azure_", "google_")


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """Options of a user, some of them secret."""

    given: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"<{len(self.given)} options>"

    def check_endpoint(self, url: str) -> None:
        """Refuse what obstore would end in a panic of: an endpoint that is no URL.

        Raises
        ------
        OptionError
        """
        told = {k: v for k, v in self.given.items() if _bare(k) in _ENDPOINTS}
        if url.startswith("s3") and not told:
            told = {k: os.environ[k] for k in _ENDPOINT_VARIABLES if k in os.environ}
        for name, value in told.items():
            if not re.match("(?i)https?://[^/]", str(value)):
                raise OptionError(
                    f"{name} is {self.redacted(str(value))!r}, which is no URL of a server. "
                    "Give one such as 'http://127.0.0.1:9000', or 'https://...'."
                )

    @staticmethod
    def usual(url: str) -> str:
        """Names of options that most need for this kind of store."""
        return _USUAL[url[0].lower()]

    @property
    def public(self) -> tuple[tuple[str, Any], ...]:
        """Those that anybody may see: no URL with a password in it."""
        return tuple(sorted((k, v) for k, v in self.given.items() if _is_public(k, v)))

    def redacted(self, text: str) -> str:
        """A text without what is secret."""
        own = [v for k, v in self.given.items() if not _is_public(k, v)]
        environment = [v for k, v in os.environ.items() if re.search("KEY|SECRET|TOKEN|SAS|PASSWORD|CREDENTIAL", k)]
        for value in filter(lambda v: isinstance(v, str) and len(v) > 3, [*own, *environment]):
            text = text.replace(value, "***")
        text = re.sub(r"://[^/@\s]*@", "://***@", text)
        return re.sub(r"(?i)(sig|signature|token|key|credential)=[^&\s\"]+", r"\1=***", text)

    @property
    def client(self) -> dict[str, Any]:
        """Those of the client, and not of a kind of store."""
        return {k: v for k, v in self.given.items() if _CLIENT.fullmatch(k)}

    @property
    def config(self) -> dict[str, Any]:
        """Those of a kind of store."""
        return {k: v for k, v in self.given.items() if not _CLIENT.fullmatch(k) and k != _PROVIDER}

    @property
    def extra(self) -> dict[str, Any]:
        """What gives credentials, if there is something."""
        return {k: v for k, v in self.given.items() if k == _PROVIDER}


def _bare(key: str) -> str:
    key = key.lower()
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _is_public(key: str, value: Any) -> bool:
    return _PUBLIC.fullmatch(_bare(key)) is not None and "@" not in str(value)
