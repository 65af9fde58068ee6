"""The kernel objects of a probe: file descriptors by kind and name."""

import os
from dataclasses import dataclass, field


@dataclass
class Objects:
    """Maps, attached programs, and the links that attach them. The owner closes it."""

    maps: dict[str, int] = field(default_factory=dict)
    programs: dict[str, int] = field(default_factory=dict)
    links: dict[str, int] = field(default_factory=dict)  # by hook

    def kinds(self) -> dict[str, dict[str, int]]:
        """All three, by the name that the handover and the pins use."""
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
