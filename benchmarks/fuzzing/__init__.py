"""The fuzz target: every reader and every command, fed with damaged and hostile files. `benchmarks/fuzz.py` runs it.

    corpus.py    sound runs, logs and checkpoints, as trees of files in memory
    mutate.py    one damaged tree from sound ones: bytes, structure, or the file system itself
    readers.py   every reader, with the trees that it reads
    commands.py  every command line, made from the options that the commands declare
    isolate.py   runs an input in a process that may crash, hang or swell
    judge.py     what an input may do, and what is a finding
    campaign.py  many inputs, kept after each chunk so that a later call continues

Input number i of a seed is a pure function of both and of the corpus, so that a finding is named by its number.
"""
