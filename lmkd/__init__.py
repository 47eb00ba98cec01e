"""lmkd: a low-memory service for Linux. Programs are told, give memory back, and are left alive."""

__version__ = "0.1.0"
