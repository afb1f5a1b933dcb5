"""evals — one evaluator per file, its uncertainty by `core.intervals`.

An evaluator says in ClassVars what `claims` its scores make, what their standard errors are `over` (the noise or samples that a seed draws,
or items that are the same for every seed: documents, problems, windows, batches; None where there is no error) and whether it `reads`
held-out text. One that cannot score every run has `check(run, tokenizer)`, which raises UserError before that run is trained.
`context.details["trials"]` says that the next score is a share, and of how many problems, documents or windows.
"""
