# pyarrow ships no types, and compute's functions exist only at run time: so every name in it is Any.
from typing import Any

def __getattr__(name: str) -> Any: ...
