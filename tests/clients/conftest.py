"""The fixture `lmkd`, also where lmkd-client is not installed and pytest does not load it by itself."""

from lmkd_client.pytest_plugin import lmkd

__all__ = ["lmkd"]
