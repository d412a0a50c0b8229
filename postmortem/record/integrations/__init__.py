"""Recording from inside the training loops of others: Hugging Face `Trainer`, Lightning, trainers that take a hook.

Each is one module that imports its framework only when it is imported itself; nothing is imported here.
"""
