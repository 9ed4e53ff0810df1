from types import ModuleType

SOURCES: dict[str, bytes]
GROUP: ModuleType

def load(name: str, /) -> ModuleType: ...
