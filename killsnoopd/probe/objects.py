"""The kernel objects that make a probe: file descriptors by kind and name."""

import os
from dataclasses import dataclass, field


@dataclass
class Objects:
    """Maps, programs that are attached, and the links that attach them. Whoever holds this closes it."""

    maps: dict[str, int] = field(default_factory=dict)
    programs: dict[str, int] = field(default_factory=dict)
    links: dict[str, int] = field(default_factory=dict)  # by hook

    def kinds(self) -> dict[str, dict[str, int]]:
        """The three of them, by the name under which they are handed over and pinned."""
        return {"maps": self.maps, "programs": self.programs, "links": self.links}

    def duplicate(self) -> "Objects":
        """The same objects under other file descriptors."""
        return Objects(*({name: os.dup(fd) for name, fd in fds.items()} for fds in self.kinds().values()))

    def close(self) -> None:
        """Close all of them."""
        for fds in self.kinds().values():
            for fd in fds.values():
                os.close(fd)
            fds.clear()
