"""The few Redis commands that projects, commits and pull-request records use, in memory; for unit tests."""

from __future__ import annotations

from typing import Any


class MemoryRedis:
    """Answers as a client with decoded replies does."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.expiries_ms: dict[str, int] = {}

    async def execute_command(self, *args: Any, **_options: Any) -> Any:
        name, key, *rest = args
        return getattr(self, f"_{name.lower()}")(key, *[_text(value) for value in rest])

    def _set(self, key: str, value: str, *options: str) -> str | None:
        if "NX" in options and key in self.values:
            return None
        self.values[key] = value
        if "PX" in options:
            self.expiries_ms[key] = int(options[options.index("PX") + 1])
        return "OK"

    def _eval(self, _script: str, *rest: str) -> None:
        """What the script of the commit store does; the real one is run by the tests of code generation."""
        _, branch, commit, made, before, ttl_ms = rest
        if self.values.get(branch) == made:
            del self.values[branch], self.values[commit]
            if before:
                self._set(branch, before, "PX", ttl_ms)

    def _get(self, key: str) -> str | None:
        return self.values.get(key)

    def _del(self, key: str) -> int:
        return int(self.values.pop(key, None) is not None)

    def _pttl(self, key: str) -> int:
        return self.expiries_ms.get(key, -1) if key in self.values else -2

    def _pexpire(self, key: str, span: str) -> int:
        self.expiries_ms[key] = int(span)
        return int(key in self.values)

    def _incr(self, key: str) -> int:
        self.values[key] = int(self.values.get(key, 0)) + 1
        return int(self.values[key])

    def _hset(self, key: str, name: str, value: str) -> int:
        new = name not in self.values.setdefault(key, {})
        self.values[key][name] = value
        return int(new)

    def _hsetnx(self, key: str, name: str, value: str) -> int:
        if name in self.values.setdefault(key, {}):
            return 0
        return self._hset(key, name, value)

    def _hget(self, key: str, name: str) -> str | None:
        found = self.values.get(key, {}).get(name)
        return None if found is None else str(found)

    def _hvals(self, key: str) -> list[str]:
        return list(self.values.get(key, {}).values())

    def _hdel(self, key: str, name: str) -> int:
        return int(self.values.get(key, {}).pop(name, None) is not None)

    def _sadd(self, key: str, *members: str) -> int:
        before = len(self.values.setdefault(key, set()))
        self.values[key] |= set(members)
        return len(self.values[key]) - before

    def _sismember(self, key: str, member: str) -> int:
        return int(member in self.values.get(key, set()))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
