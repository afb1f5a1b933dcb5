"""Data: documents to packed batches, addressable by step. No JAX.

source ─ documents('train' | 'held_out') ─> tokens (cached on disk) ─> windows (packed)
       ─> loader: batches from any step on

Only `loader` uses JAX indirectly: it imports grain, inside a method.
"""
