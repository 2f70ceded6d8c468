"""The compiled core: what each request pays for, in Cython over the arena of `fastkv.store`.

It imports nothing of fastkv. Whatever it declines, the readable Python does, which is the specification of
what it does.
"""
