"""Text: strings to ids and back, with the exact number of bytes that every id stands for. No JAX.

A config (`bytes.Bytes`, `bpe.BPE`) knows its `vocab` before any corpus is read. It builds a
`base.Tokenizer` from a corpus (`fit`) or from a run directory (`restore`).

Text and published files are untrusted: in a `quoted.Quoted` the name of a special token stays text,
`template_sandbox` bounds the work of a chat template.
"""
