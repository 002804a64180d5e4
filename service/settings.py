"""Every setting of the service: an environment variable ``POINTSMAN_<NAME>`` each, all of them in the README."""

from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from model.taxonomy import DATA


class Settings(BaseSettings):
    """Read once, by whoever creates the application, and passed on from there."""

    model_config = SettingsConfigDict(env_prefix="POINTSMAN_", extra="ignore", frozen=True)

    model: Path = Field(default=Path("models"), description="A bundle, or a folder of bundles whose champion serves.")
    host: str = Field(default="127.0.0.1", description="The address that the service is bound to.")
    database_url: str = Field(default="sqlite:///pointsman.db", description="Where decisions are stored: SQLite or PostgreSQL.")
    policy: Path = Field(default=DATA / "policy.yaml", description="The policy that turns labels into a route.")
    keep_text_days: Annotated[int, Field(ge=0)] = Field(
        default=30, description="Days that ticket text and the words of explanations are kept; 0 keeps none."
    )
    deep: Literal["auto", "off"] = Field(default="auto", description="`off` turns the deep path off when classifying or serving.")
    deep_seconds: Annotated[float, Field(gt=0, le=30)] = Field(
        default=1.0, description="How long the deep path is waited for before the fast path's decision stands."
    )
    deep_waiting: Annotated[int, Field(ge=1, le=64)] = Field(
        default=4, description="Tickets (or batches) that the deep path is asked for at once in each worker; more get the fast path's decision."
    )
    max_request_bytes: Annotated[int, Field(ge=1024)] = Field(  # the longest ticket fits, each character written as \uXXXX
        default=1_500_000, description="The largest body of a request for one ticket."
    )
    max_batch_bytes: Annotated[int, Field(ge=1024)] = Field(default=16_777_216, description="The largest body of a batch.")
    write_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        default=0.9, description="How long a request waits for its decision to be stored before it is answered 503."
    )
    max_in_flight: Annotated[int, Field(ge=1)] = Field(
        default=256, description="Requests worked on at once in each worker; more are answered 429. Health routes always answer."
    )
    rate_per_key: Annotated[float, Field(ge=0)] = Field(
        default=0, description="Requests a second that each API key may make in each worker; 0 sets no limit."
    )
    watch_seconds: Annotated[float, Field(gt=0)] = Field(default=1.0, description="How often the folder of bundles is looked at for a new champion.")
    docs: Literal["auto", "on", "off"] = Field(
        default="auto", description="Whether `/docs` and `/openapi.json` are shown; `auto`: on a loopback address only."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level of log lines.")

    @property
    def loopback(self) -> bool:
        """Whether the service is reached from this machine only."""
        return _is_loopback(self.host)

    @property
    def shows_docs(self) -> bool:
        """Whether the API's page and document are served."""
        return self.docs == "on" or (self.docs == "auto" and self.loopback)


@cache  # asked at every request
def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
