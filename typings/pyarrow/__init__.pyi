# pyarrow ships no types, and compute's functions exist only at run time: here every name of it is Any.
from typing import Any

def __getattr__(name: str) -> Any: ...
